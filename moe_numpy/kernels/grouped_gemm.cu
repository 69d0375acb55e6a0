// One matrix product for each expert, all in one launch, on the tensor cores of a Hopper GPU: bfloat16 in and out, sums
// in float32. grouped_gemm.py compiles it, once for each kind of product and size of tile:
//
//   DEPTH_IS_ROWS 0    y[n] = b_e a[n], or b_eᵀ a[n] if B_ACROSS, for every row n of expert e; 0 for rows of no expert
//   DEPTH_IS_ROWS 1    y_e = Σ a[n] b[n]ᵀ over the rows n of expert e
//
// The result is cut into tiles of BM x BN that never cross from one expert to the next. A block computes one tile after
// the other, in steps of 64 along the sum:
//
//                    BN                      one stage of shared memory: the 64 columns of a and the 64 rows of b
//             +-------------+                that one step multiplies. STAGES of them form a ring.
//          64 |      b      |
//        64   +=============+                warp group 0, the producer: one thread asks the copy engine for the
//      +----+ +-------------+                next stage as soon as its place in the ring is empty.
//   BM | a  | |   y, in     | warp group 1
//      |    | |  registers  | ------------   warp groups 1 and 2, the consumers: each multiplies its half of the tile
//      |    | |             | warp group 2   as soon as a stage is full, and says that it is empty. The halves lie above
//      +----+ +-------------+                one another, or side by side where BM is 64.
//
// Rows after the last one of an expert belong to the next: as rows of the result they are computed and not written; as
// part of the sum they are set to zero in shared memory first. Every tile is summed by one block in one order, so
// the same input always gives the same bits. Nothing here depends on the host knowing where an expert's rows begin.

typedef unsigned u32;
typedef unsigned long long u64;
typedef long long index_t;
typedef unsigned short bf16;  // only moved

constexpr int BK = 64;                       // entries of 128 bytes, the widest line that the copy engine swizzles
constexpr int LINE = 128, SLAB = BK * LINE;  // bytes of a line; of 64 lines, a piece of an operand read across
constexpr int SIDE_BY_SIDE = BM == 64 ? 2 : 1;
constexpr int WIDTH = BN / SIDE_BY_SIDE;     // columns of one consumer; its rows are 64
constexpr int A_BYTES = BM * LINE, B_BYTES = BN * LINE, STAGE = A_BYTES + B_BYTES;
constexpr int BOX = 16 * LINE;               // the result leaves through a box of 16 lines for each of 8 warps
constexpr int GROUP = 16;                    // tiles above one another before the next column: both operands stay in L2

struct alignas(64) TensorMap { u64 opaque[16]; };

__device__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// ---- barriers in shared memory: each use flips the parity that the next wait looks for ------------------------------

__device__ void init(u64* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(arrivals));
}

__device__ void arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}

__device__ void expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

__device__ void wait(u64* barrier, u32 parity) {
    u32 done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(shared_address(barrier)), "r"(parity) : "memory");
}

// ---- the copy engine and the tensor cores ---------------------------------------------------------------------------

__device__ void load(void* to, const TensorMap* map, u64* full, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared_address(to)), "l"(map), "r"(shared_address(full)), "r"(x), "r"(y), "r"(z) : "memory");
}

// What ordinary stores wrote into shared memory is there for the copy engine and the tensor cores.
__device__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Where a matrix lies in shared memory: lines of 128 bytes in groups of 8, 1024 bytes from one to the next; slabs of an
// operand read across are SLAB bytes apart. The sizes are in units of 16 bytes; the top bits say "swizzled by 128".
__device__ u64 matrix(const char* p) {
    return (u64)(shared_address(p) & 0x3ffff) >> 4 | (u64)(SLAB >> 4) << 16 | (u64)(1024 >> 4) << 32 | 1ULL << 62;
}

// d += a b for 64 x 16 and 16 x WIDTH. ACCUMULATORS and INPUTS name the WIDTH / 2 registers of each thread.
__device__ void multiply_add(float (&d)[WIDTH / 2], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n" WIDTH_TEXT "k16.f32.bf16.bf16 {" ACCUMULATORS "}, " INPUTS
                 ", 1, 1, 1, %" FLAG_A ", %" FLAG_B ";"
                 : OPERANDS : "l"(a), "l"(b), "n"(DEPTH_IS_ROWS), "n"(DEPTH_IS_ROWS || B_ACROSS));
}

template <int PENDING> __device__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// ---- which tile -----------------------------------------------------------------------------------------------------

struct Tile {
    int expert, row, column, begin, end;  // its corner in the result; the rows of the expert
};

// bounds[e] is the first row of expert e, tiles[e] the number of rows of tiles before it.
struct Schedule {
    const int *bounds, *tiles;
    int num_groups, m, n;

    __device__ int columns() const { return (n + BN - 1) / BN; }
    __device__ int size() const { return tiles[num_groups] * columns(); }

    __device__ Tile operator[](int i) const {
        int width = columns(), low = 0, high = num_groups - 1;  // the last e with tiles[e] * width <= i
        while (low < high) {
            int middle = (low + high + 1) / 2;
            if (tiles[middle] * width <= i) low = middle; else high = middle - 1;
        }
        int height = tiles[low + 1] - tiles[low];
        i -= tiles[low] * width;
        int first = i / (GROUP * width) * GROUP, rows = min(GROUP, height - first);
        i -= first * width;
        int row = (first + i % rows) * BM + (DEPTH_IS_ROWS ? 0 : bounds[low]);
        return {low, row, i / rows * BN, bounds[low], bounds[low + 1]};
    }
};

// ---- the kernel -----------------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(384, 1)
multiply(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, bf16* y, const index_t* offsets,
         int num_experts, int num_rows, int m, int n, int depth) {
    extern __shared__ char memory[];
    char* stages = memory + (1024 - shared_address(memory) % 1024) % 1024;
    char* boxes = stages + STAGES * STAGE;
    u64 *full = (u64*)(boxes + 8 * BOX), *empty = full + STAGES;
    int num_groups = num_experts + !DEPTH_IS_ROWS;  // the last one has the rows of no expert
    int *bounds = (int*)(empty + STAGES), *tiles = bounds + num_groups + 1;

    for (int e = threadIdx.x; e <= num_groups; e += blockDim.x)
        bounds[e] = e > num_experts ? num_rows : (int)min(max(offsets[e], 0LL), (index_t)num_rows);
    if (threadIdx.x == 0)
        for (int s = 0; s < STAGES; s++) init(&full[s], 1), init(&empty[s], 2);
    publish();
    __syncthreads();
    if (threadIdx.x < 32) {  // one warp adds up the tiles, 32 experts at a time
        int before = 0;
        for (int first = 0; first < num_groups; first += 32) {
            int e = first + threadIdx.x, height = 0;
            if (e < num_groups) height = DEPTH_IS_ROWS ? m : max(bounds[e + 1] - bounds[e], 0);
            height = (height + BM - 1) / BM;
            int sum = height;
            for (int step = 1; step < 32; step *= 2) {
                int left = __shfl_up_sync(~0u, sum, step);
                if (threadIdx.x >= step) sum += left;
            }
            if (e < num_groups) tiles[e] = before + sum - height;
            before += __shfl_sync(~0u, sum, 31);
        }
        if (threadIdx.x == 0) tiles[num_groups] = before;
    }
    __syncthreads();

    Schedule schedule{bounds, tiles, num_groups, m, n};
    int size = schedule.size(), stage = 0;
    u32 parity = 0;

    if (threadIdx.x < 128) {  // the producer
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x > 0) return;
        for (int i = blockIdx.x; i < size; i += gridDim.x) {
            Tile t = schedule[i];
            int sum = DEPTH_IS_ROWS ? t.end - t.begin : t.expert < num_experts ? depth : 0;
            for (int k = 0; k < sum; k += BK) {
                char *to_a = stages + stage * STAGE, *to_b = to_a + A_BYTES;
                wait(&empty[stage], parity ^ 1);
                expect(&full[stage], STAGE);
                if (DEPTH_IS_ROWS) {
                    for (int s = 0; s < BM / 64; s++) load(to_a + s * SLAB, &a, &full[stage], t.row + s * 64, t.begin + k, 0);
                    for (int s = 0; s < BN / 64; s++) load(to_b + s * SLAB, &b, &full[stage], t.column + s * 64, t.begin + k, 0);
                } else {
                    load(to_a, &a, &full[stage], k, t.row, 0);
                    if (B_ACROSS) {
                        for (int s = 0; s < BN / 64; s++) load(to_b + s * SLAB, &b, &full[stage], t.column + s * 64, k, t.expert);
                    } else {
                        load(to_b, &b, &full[stage], k, t.column, t.expert);
                    }
                }
                if (++stage == STAGES) stage = 0, parity ^= 1;
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int consumer = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
    int below = consumer / SIDE_BY_SIDE * 64, right = consumer % SIDE_BY_SIDE * WIDTH;
    char* box = boxes + warp * BOX;
    for (int i = blockIdx.x; i < size; i += gridDim.x) {
        Tile t = schedule[i];
        int sum = DEPTH_IS_ROWS ? t.end - t.begin : t.expert < num_experts ? depth : 0;
        float d[WIDTH / 2];
        for (int j = 0; j < WIDTH / 2; j++) d[j] = 0;
        u64* busy = nullptr;
        for (int k = 0; k < sum; k += BK) {
            char *from_a = stages + stage * STAGE, *from_b = from_a + A_BYTES;
            wait(&full[stage], parity);
            if (DEPTH_IS_ROWS && sum - k < BK) {  // the last lines of the stage belong to the next expert
                int thread = threadIdx.x - 128, piece = thread % 8 * 16;
                for (char* slab = from_a; slab < from_a + STAGE; slab += SLAB)
                    for (int line = sum - k + thread / 8; line < BK; line += 32)
                        *(uint4*)(slab + line * LINE + piece) = {0, 0, 0, 0};
                publish();
                asm volatile("bar.sync 1, 256;" ::: "memory");
            }
            if (DEPTH_IS_ROWS) from_a += below / 64 * SLAB, from_b += right / 64 * SLAB;
            else from_a += below * LINE, from_b += B_ACROSS ? right / 64 * SLAB : right * LINE;
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
            for (int step = 0; step < 4; step++)  // 16 at a time: 32 bytes along a line, or 16 lines
                multiply_add(d, matrix(from_a + step * (DEPTH_IS_ROWS ? 16 * LINE : 32)),
                             matrix(from_b + step * (DEPTH_IS_ROWS || B_ACROSS ? 16 * LINE : 32)));
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            wait_for_products<1>();
            if (busy && threadIdx.x % 128 == 0) arrive(busy);
            busy = &empty[stage];
            if (++stage == STAGES) stage = 0, parity ^= 1;
        }
        wait_for_products<0>();
        if (busy && threadIdx.x % 128 == 0) arrive(busy);

        // Each warp has 16 rows, spread over its lanes. Through a box in shared memory, with its 16 bytes swizzled so that
        // no two lanes meet in one bank, they become whole lines of 64 columns.
        int row = t.row + below + warp % 4 * 16, end = DEPTH_IS_ROWS ? m : t.end;
        bf16* to = y + (DEPTH_IS_ROWS ? (index_t)t.expert * m * n : 0);
        for (int c = 0; c < WIDTH; c += 64) {
            for (int j = 0; j < 64; j += 16) {
                const float* v = d + (c + j) / 2;
                u32 pairs[4];
                for (int p = 0; p < 4; p++)
                    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pairs[p]) : "f"(v[2 * p + 1]), "f"(v[2 * p]));
                asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                             :: "r"(shared_address(box + lane % 16 * LINE + (j / 8 + lane / 16 ^ lane % 8) * 16)),
                                "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3]) : "memory");
            }
            __syncwarp();
            for (int j = lane / 8; j < 16; j += 4) {
                int column = t.column + right + c + lane % 8 * 8;
                if (row + j < end && column < n)
                    *(uint4*)(to + (index_t)(row + j) * n + column) = *(uint4*)(box + j * LINE + (lane % 8 ^ j % 8) * 16);
            }
            __syncwarp();
        }
    }
}
