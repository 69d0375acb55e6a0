// Causal attention whose scores never reach memory, forward and backward, on the tensor cores: bfloat16 in and out,
// sums in float32 (Dao 2023, "FlashAttention-2"). attention.py compiles it, once for each head width D:
//
//   forward          o = softmax(q kᵀ scale) v, and of each row the log-sum-exp, lse = log Σ exp(q kᵀ scale)
//   query_gradient   delta = Σ dy o of each row, and dq = ds k scale
//   key_gradient     dv = pᵀ dy and dk = dsᵀ q scale       with p = exp(q kᵀ scale - lse), ds = p (dy vᵀ - delta)
//
// The query heads that share a key head are stacked, S = `length` rows each: of the L keys, row r sees those up to its
// position L - S + r % S. A block keeps a tile of 128 rows of one side, and walks along the other:
//
//              keys and values, a stage at a time,           Two stages of shared memory: the next one is fetched while
//              until the last that a row sees                this one is multiplied.
//             +-------+-------+-------+
//   queries   | ----> |       | \     |  warp 0              A warp has 16 M rows for itself. Their scores with a stage
//   of a tile |       |       |   \   |  warp 1              are sums in its registers, and these sums, rounded, are
//             |       |       |     \ |  warp 2              already spread over the lanes as the left operand of
//             |       |       |       |  ...                 the next product wants them.
//             +-------+-------+-------+
//
// For dk and dv the sides change places: a block keeps keys and values, computes the transposed scores k qᵀ, and walks
// along the queries of the whole stack. What the mask hides from a tile is not fetched; what it hides from a warp is
// not multiplied. Every sum has one order: the same input always gives the same bits.

typedef unsigned u32;
typedef long long index_t;
typedef unsigned short bf16;  // only moved

constexpr int D = HEAD_WIDTH;     // a multiple of 16, at most 128
constexpr int LINE = 2 * D + 16;  // bytes from row to row in shared memory: so no two of 8 rows meet in a bank
constexpr int TILE = 128;         // rows that a block keeps
constexpr bool NARROW = D <= 64;  // registers hold more than the sums
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

// ---- PTX ------------------------------------------------------------------------------------------------------------

__device__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies that run on by themselves: `bytes` from memory, the rest of 16 or 4 zero.
__device__ void copy_16(u32 to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ void copy_4(u32 to, const void* from, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four matrices of 8 x 8: lane i gives the address of row i % 8 of matrix i / 8, and gets the entry (i / 4, i % 4 * 2)
// and its right neighbour of each, or of its transpose.
__device__ void load(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

__device__ void load_transposed(u32 (&r)[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

// d += a b for 16 x 16 and 16 x 8.
__device__ void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
        " {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ u32 rounded(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ float minus_infinity() { return __int_as_float(0xff800000); }

__device__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The same in all lanes, as the compiler can see.
__device__ int this_warp() { return __shfl_sync(~0u, threadIdx.x / 32, 0); }

// ---- products -------------------------------------------------------------------------------------------------------

// 16 M rows in shared memory as the left operand, [16 M, D]: HELD in registers, or loaded again for each product.
template <int M, bool HELD> struct Left {
    u32 at, held[HELD ? D / 16 : 1][M][4];

    __device__ explicit Left(u32 rows) : at(rows + threadIdx.x % 16 * LINE + threadIdx.x % 32 / 16 * 16) {}

    __device__ void hold() {
#pragma unroll
        for (int k = 0; k < (HELD ? D / 16 : 0); k++)
#pragma unroll
            for (int i = 0; i < M; i++) load(held[k][i], at + i * 16 * LINE + k * 32);
    }

    // Columns 16 k ... 16 k + 15.
    __device__ void get(u32 (&a)[M][4], int k) const {
#pragma unroll
        for (int i = 0; i < M; i++)
            if (HELD)
#pragma unroll
                for (int j = 0; j < 4; j++) a[i][j] = held[HELD ? k : 0][i][j];
            else load(a[i], at + i * 16 * LINE + k * 32);
    }
};

// s = left rightᵀ, where right has N rows in shared memory.
template <int M, bool HELD, int N>
__device__ void products_of_rows(float (&s)[M][N][4], const Left<M, HELD>& left, u32 right) {
    int lane = threadIdx.x % 32;
    right += (lane / 16 * 8 + lane % 8) * LINE + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) s[i][n][j] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 a[M][4];
        left.get(a, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            load(b, right + n * 8 * LINE + k * 32);
#pragma unroll
            for (int i = 0; i < M; i++) {
                multiply_add(s[i][n], a[i], b[0], b[1]);
                multiply_add(s[i][n + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// sum += p x, p rounded, where x has 8 N rows in shared memory.
template <int M, int N>
__device__ void add_weighted_rows(float (&sum)[M][D / 8][4], const float (&p)[M][N][4], u32 x) {
    x += threadIdx.x % 16 * LINE + threadIdx.x % 32 / 16 * 16;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        u32 a[M][4];
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) a[i][j] = rounded(p[i][k + j / 2][j % 2 * 2], p[i][k + j / 2][j % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            load_transposed(b, x + k * 8 * LINE + n * 16);
#pragma unroll
            for (int i = 0; i < M; i++) {
                multiply_add(sum[i][n], a[i], b[0], b[1]);
                multiply_add(sum[i][n + 1], a[i], b[2], b[3]);
            }
        }
    }
}

// ---- rows in and out ------------------------------------------------------------------------------------------------

// ROWS rows of x into shared memory, from `first` on; zeros from `end` on.
template <int ROWS, int THREADS> __device__ void fetch(u32 to, const bf16* x, int first, int end) {
    constexpr int PIECES = D / 8, STEP = THREADS / PIECES;  // of a row; rows at once
    int row = threadIdx.x / PIECES, piece = threadIdx.x % PIECES, left = end - first - row;
    to += row * LINE + piece * 16, x += (first + row) * D + piece * 8;
    if (THREADS % PIECES != 0 && row >= STEP) return;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP)
        if (ROWS % STEP == 0 || row + i < ROWS) copy_16(to + i * LINE, x + i * D, i < left ? 16 : 0);
}

// The rows of a warp leave as whole lines, `count` of them, through their place in shared memory.
template <int M> __device__ void store(bf16* y, char* place, const float (&x)[M][D / 8][4], int count) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(u32*)(place + (16 * i + 8 * h + lane / 4) * LINE + n * 16 + lane % 4 * 4) =
                    rounded(x[i][n][2 * h], x[i][n][2 * h + 1]);
    __syncwarp();
    for (int j = lane; j < 16 * M * (D / 8); j += 32) {
        int row = j / (D / 8), piece = j % (D / 8);
        if (row < count) *(uint4*)(y + row * D + piece * 8) = *(uint4*)(place + row * LINE + piece * 16);
    }
}

template <int M> __device__ void scale_all(float (&x)[M][D / 8][4], float factor) {
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) x[i][n][j] *= factor;
}

// ---- which tile, and what it sees -----------------------------------------------------------------------------------

// Blocks that run at the same time read the same few heads, `together` of them, so that the L2 cache serves them: all
// first tiles of these heads, then all second ones.
struct Tile {
    int head, number;

    __device__ Tile(int tiles, int heads, int together) {
        int section = blockIdx.x / (tiles * together), i = blockIdx.x % (tiles * together);
        int width = min(together, heads - section * together);
        head = section * together + i % width, number = i / width;
    }
};

// Tiles of queries never cross from one query head to the next, unless the heads are shorter than a tile.
__device__ int rows_of_a_span(int rows, int length) { return length < TILE ? rows : length; }

// The lowest and the highest position of `count` rows of a stack, the first of which is row `first` of its head: both of
// a whole head if they go on into the next.
struct Positions {
    int lowest, highest;

    __device__ Positions(int first, int count, int length, int num_keys) {
        bool cross = first + count > length;
        lowest = num_keys - length + (cross ? 0 : first);
        highest = count <= 0 ? -1 : num_keys - length + (cross ? length : first + count) - 1;
    }
};

// Queries of a block, of which those with the most keys come first.
struct Queries {
    int head, first, end;

    __device__ Queries(int rows, int length, int heads, int together) {
        int span = rows_of_a_span(rows, length), spans = rows / span, height = (span + TILE - 1) / TILE;
        Tile tile(height * spans, heads, together);
        int begin = tile.number % spans * span;
        head = tile.head, first = begin + (height - 1 - tile.number / spans) * TILE;
        end = min(first + TILE, begin + span);
    }
};

// ---- kernels --------------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(128, 2)
forward(const bf16* q, const bf16* k, const bf16* v, bf16* o, float* lse, int rows, int length, int num_keys, int heads,
        int together, float unit) {
    constexpr int M = 2, KEYS = 64, FIRST = TILE * LINE, STAGE = 2 * KEYS * LINE, POSITIONS = FIRST + 2 * STAGE;
    extern __shared__ __align__(16) char memory[];  // queries; two stages of keys and values; positions of the queries

    Queries block(rows, length, heads, together);
    int warp = this_warp(), lane = threadIdx.x % 32, above = warp * 16 * M;
    int end = Positions(block.first % length, block.end - block.first, length, num_keys).highest + 1;
    Positions mine((block.first + above) % length, min(block.end - block.first - above, 16 * M), length, num_keys);
    int* position = (int*)(memory + POSITIONS);
    position[threadIdx.x] = num_keys - length + (block.first + threadIdx.x) % length;
    k += (index_t)block.head * num_keys * D, v += (index_t)block.head * num_keys * D;

    u32 shared = shared_address(memory);
    auto fetch_stage = [&](int stage, int key) {
        fetch<KEYS, 128>(shared + stage, k, key, num_keys);
        fetch<KEYS, 128>(shared + stage + KEYS * LINE, v, key, num_keys);
    };
    fetch<TILE, 128>(shared, q + (index_t)block.head * rows * D, block.first, block.end);
    fetch_stage(FIRST, 0);
    wait_for_copies();
    __syncthreads();
    Left<M, NARROW> queries(shared + above * LINE);
    queries.hold();

    // In units of log 2: exp(s scale - max) = 2^(s unit - top). Every row sees key 0, so top is finite from then on.
    float sum[M][D / 8][4] = {}, top[M][2], total[M][2];
    for (int i = 0; i < M; i++)
        for (int h = 0; h < 2; h++) top[i][h] = minus_infinity(), total[i][h] = 0;

    for (int key = 0, stage = FIRST; key < end; key += KEYS, stage = 2 * FIRST + STAGE - stage) {
        wait_for_copies();
        __syncthreads();
        if (key + KEYS < end) fetch_stage(2 * FIRST + STAGE - stage, key + KEYS);
        u32 keys = shared + stage;
        if (key <= mine.highest) {
            float s[M][KEYS / 8][4];
            products_of_rows(s, queries, keys);
            if (key + KEYS - 1 > mine.lowest)
#pragma unroll
                for (int i = 0; i < M; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        int last = position[above + 16 * i + 8 * h + lane / 4] - key - lane % 4 * 2;
#pragma unroll
                        for (int n = 0; n < KEYS / 8; n++) {
                            if (8 * n > last) s[i][n][2 * h] = minus_infinity();
                            if (8 * n + 1 > last) s[i][n][2 * h + 1] = minus_infinity();
                        }
                    }
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float best = s[i][0][2 * h];
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++) best = fmaxf(best, fmaxf(s[i][n][2 * h], s[i][n][2 * h + 1]));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 1));
                    best = fmaxf(best, __shfl_xor_sync(~0u, best, 2));  // of the 4 lanes that share a row
                    best = fmaxf(top[i][h], best * unit);
                    float shrink = power_of_2(top[i][h] - best);
                    top[i][h] = best, total[i][h] *= shrink;
#pragma unroll
                    for (int n = 0; n < D / 8; n++) sum[i][n][2 * h] *= shrink, sum[i][n][2 * h + 1] *= shrink;
#pragma unroll
                    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                        for (int j = 2 * h; j < 2 * h + 2; j++) {
                            s[i][n][j] = power_of_2(fmaf(s[i][n][j], unit, -best));
                            total[i][h] += s[i][n][j];
                        }
                }
            add_weighted_rows(sum, s, keys + KEYS * LINE);
        }
    }

    int first = block.first + above, count = block.end - first;
    lse += (index_t)block.head * rows + first, o += ((index_t)block.head * rows + first) * D;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float t = total[i][h];
            t += __shfl_xor_sync(~0u, t, 1);
            t += __shfl_xor_sync(~0u, t, 2);
            int row = 16 * i + 8 * h + lane / 4;
            if (lane % 4 == 0 && row < count) lse[row] = (top[i][h] + log2f(t)) * LN_2;
            t = 1 / t;
#pragma unroll
            for (int n = 0; n < D / 8; n++) sum[i][n][2 * h] *= t, sum[i][n][2 * h + 1] *= t;
        }
    store(o, memory + above * LINE, sum, count);
}

// The sum of the products of 8 pairs.
__device__ float inner(uint4 a, uint4 b) {
    u32 x[] = {a.x, a.y, a.z, a.w}, y[] = {b.x, b.y, b.z, b.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum = fmaf(__uint_as_float(x[i] << 16), __uint_as_float(y[i] << 16), sum);
        sum = fmaf(__uint_as_float(x[i] & 0xffff0000), __uint_as_float(y[i] & 0xffff0000), sum);
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(128, 2)
query_gradient(const bf16* grad, const bf16* q, const bf16* k, const bf16* v, const bf16* o, const float* lse,
               float* delta, bf16* dq, int rows, int length, int num_keys, int heads, int together, float unit) {
    constexpr int M = 2, KEYS = NARROW ? 64 : 32, PART = 32;
    constexpr int FIRST = 2 * TILE * LINE, STAGE = 2 * KEYS * LINE, POSITIONS = FIRST + 2 * STAGE;
    extern __shared__ __align__(16) char memory[];  // queries, gradients; two stages of keys and values; positions

    Queries block(rows, length, heads, together);
    int warp = this_warp(), lane = threadIdx.x % 32, first = block.first + warp * 16 * M;
    int end = Positions(block.first % length, block.end - block.first, length, num_keys).highest + 1;
    Positions mine(first % length, min(block.end - first, 16 * M), length, num_keys);
    int* position = (int*)(memory + POSITIONS);
    position[threadIdx.x] = num_keys - length + (block.first + threadIdx.x) % length;
    index_t start = (index_t)block.head * rows;
    grad += start * D, q += start * D, o += start * D, dq += start * D, lse += start, delta += start;
    k += (index_t)block.head * num_keys * D, v += (index_t)block.head * num_keys * D;

    u32 shared = shared_address(memory);
    auto fetch_stage = [&](int stage, int key) {
        fetch<KEYS, 128>(shared + stage, k, key, num_keys);
        fetch<KEYS, 128>(shared + stage + KEYS * LINE, v, key, num_keys);
    };
    fetch<TILE, 128>(shared, q, block.first, block.end);
    fetch<TILE, 128>(shared + TILE * LINE, grad, block.first, block.end);
    fetch_stage(FIRST, 0);

#pragma unroll 4
    for (int row = lane / 16; row < 16 * M; row += 2) {  // two rows at a time
        int piece = lane % 16;
        float sum = 0;
        if (first + row < block.end && piece < D / 8) {
            int at = (first + row) * D + piece * 8;
            sum = inner(*(const uint4*)(grad + at), *(const uint4*)(o + at));
        }
        for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (piece == 0 && first + row < block.end) delta[first + row] = sum;
    }
    __syncwarp();
    float top[M][2], mean[M][2];  // lse in units of log 2, and delta
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = 16 * i + 8 * h + lane / 4;
            top[i][h] = first + row < block.end ? lse[first + row] * LOG2_E : 0;
            mean[i][h] = first + row < block.end ? delta[first + row] : 0;
        }

    wait_for_copies();
    __syncthreads();
    Left<M, NARROW> queries(shared + warp * 16 * M * LINE), gradients(shared + (TILE + warp * 16 * M) * LINE);
    queries.hold();
    gradients.hold();

    float sum[M][D / 8][4] = {};
    for (int key = 0, stage = FIRST; key < end; key += KEYS, stage = 2 * FIRST + STAGE - stage) {
        wait_for_copies();
        __syncthreads();
        if (key + KEYS < end) fetch_stage(2 * FIRST + STAGE - stage, key + KEYS);
        u32 keys = shared + stage;
        for (int part = 0; part < KEYS; part += PART) {
            if (key + part > mine.highest) break;
            float s[M][PART / 8][4], ds[M][PART / 8][4];
            products_of_rows(s, queries, keys + part * LINE);
            products_of_rows(ds, gradients, keys + (KEYS + part) * LINE);
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int n = 0; n < PART / 8; n++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        ds[i][n][j] =
                            power_of_2(fmaf(s[i][n][j], unit, -top[i][j / 2])) * (ds[i][n][j] - mean[i][j / 2]);
            if (key + part + PART - 1 > mine.lowest)
#pragma unroll
                for (int i = 0; i < M; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        int last = position[warp * 16 * M + 16 * i + 8 * h + lane / 4] - key - part - lane % 4 * 2;
#pragma unroll
                        for (int n = 0; n < PART / 8; n++) {
                            if (8 * n > last) ds[i][n][2 * h] = 0;
                            if (8 * n + 1 > last) ds[i][n][2 * h + 1] = 0;
                        }
                    }
            add_weighted_rows(sum, ds, keys + part * LINE);
        }
    }
    scale_all(sum, unit * LN_2);
    store(dq + first * D, memory + warp * 16 * M * LINE, sum, block.end - first);
}

// The left operands are held here, since each warp multiplies them with few queries at a time.
extern "C" __global__ void __launch_bounds__(NARROW ? 128 : 256, NARROW ? 2 : 1)
key_gradient(const bf16* grad, const bf16* q, const bf16* k, const bf16* v, const float* lse, const float* delta,
             bf16* dk, bf16* dv, int rows, int length, int num_keys, int heads, int together, float unit) {
    constexpr int M = NARROW ? 2 : 1, THREADS = 256 / M, QUERIES = 64, PART = NARROW ? 16 : 32,
                  FIRST = 2 * TILE * LINE, STAGE = QUERIES * (2 * LINE + 12);
    extern __shared__ __align__(16) char memory[];  // keys, values; 2 stages: queries, gradients, lse, delta, positions

    Tile block((num_keys + TILE - 1) / TILE, heads, together);
    int warp = this_warp(), lane = threadIdx.x % 32, first = block.number * TILE, mine = first + warp * 16 * M;
    index_t start = (index_t)block.head * rows;
    grad += start * D, q += start * D, lse += start, delta += start;
    start = (index_t)block.head * num_keys * D;
    k += start, v += start, dk += start, dv += start;

    u32 shared = shared_address(memory);

    // The next queries: of each span, the first ones see nothing of these keys.
    int span = rows_of_a_span(rows, length);
    int skipped = span == length ? max(first - (num_keys - length), 0) / QUERIES * QUERIES : 0;
    int row = skipped, end = span;
    auto fetch_stage = [&](int stage) {
        fetch<QUERIES, THREADS>(shared + stage, q, row, end);
        fetch<QUERIES, THREADS>(shared + stage + QUERIES * LINE, grad, row, end);
        int at = row + threadIdx.x % QUERIES;
        if (threadIdx.x < 2 * QUERIES)
            copy_4(shared + stage + 2 * QUERIES * LINE + threadIdx.x * 4,
                   (threadIdx.x < QUERIES ? lse : delta) + min(at, end - 1), at < end ? 4 : 0);
        int* position = (int*)(memory + stage + 2 * QUERIES * (LINE + 4));
        if (threadIdx.x < QUERIES) position[threadIdx.x] = num_keys - length + at % length;
    };

    fetch<TILE, THREADS>(shared, k, first, num_keys);
    fetch<TILE, THREADS>(shared + TILE * LINE, v, first, num_keys);
    fetch_stage(FIRST);
    wait_for_copies();
    __syncthreads();
    Left<M, true> keys(shared + warp * 16 * M * LINE), values(shared + (TILE + warp * 16 * M) * LINE);
    keys.hold();
    values.hold();

    float sum_k[M][D / 8][4] = {}, sum_v[M][D / 8][4] = {};
    for (int stage = FIRST; row < rows; stage = 2 * FIRST + STAGE - stage) {
        int in_head = row % length, count = end - row;
        wait_for_copies();
        __syncthreads();
        row += QUERIES;
        if (row >= end) row = end + skipped, end += span;
        if (row < rows) fetch_stage(2 * FIRST + STAGE - stage);
        const float* of_row = (const float*)(memory + stage + 2 * QUERIES * LINE) + lane % 4 * 2;
        const int* position = (const int*)of_row + 2 * QUERIES;
        for (int part = 0; part < QUERIES; part += PART) {
            Positions seen(in_head + part, min(count - part, PART), length, num_keys);
            if (mine > seen.highest) continue;
            u32 queries = shared + stage + part * LINE, gradients = queries + QUERIES * LINE;
            float p[M][PART / 8][4], ds[M][PART / 8][4];  // transposed: keys by queries
            products_of_rows(p, keys, queries);
            products_of_rows(ds, values, gradients);
#pragma unroll
            for (int n = 0; n < PART / 8; n++) {
                float2 top = *(const float2*)(of_row + part + 8 * n);
                float2 mean = *(const float2*)(of_row + QUERIES + part + 8 * n);
#pragma unroll
                for (int i = 0; i < M; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        p[i][n][j] = power_of_2(fmaf(p[i][n][j], unit, (j % 2 ? top.y : top.x) * -LOG2_E)),
                        ds[i][n][j] -= j % 2 ? mean.y : mean.x;
            }
            if (mine + 16 * M - 1 > seen.lowest)
#pragma unroll
                for (int n = 0; n < PART / 8; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        int last = position[part + 8 * n + j] - mine - lane / 4;
#pragma unroll
                        for (int i = 0; i < M; i++) {
                            if (16 * i > last) p[i][n][j] = 0;
                            if (16 * i + 8 > last) p[i][n][j + 2] = 0;
                        }
                    }
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int n = 0; n < PART / 8; n++)
#pragma unroll
                    for (int j = 0; j < 4; j++) ds[i][n][j] *= p[i][n][j];
            add_weighted_rows(sum_v, p, gradients);
            add_weighted_rows(sum_k, ds, queries);
        }
    }
    scale_all(sum_k, unit * LN_2);
    store(dk + mine * D, memory + warp * 16 * M * LINE, sum_k, num_keys - mine);
    store(dv + mine * D, memory + (TILE + warp * 16 * M) * LINE, sum_v, num_keys - mine);
}
