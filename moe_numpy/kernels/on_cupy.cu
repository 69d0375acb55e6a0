// The CUDA loops of on_cupy.py, compiled once for each type of entry:
// REAL is that type (float, double or __nv_bfloat16), ACC the type of sums (float or double).
// Every sum has a fixed order: the same input always gives the same bits.

#include <cuda_bf16.h>

typedef long long index_t;

constexpr int VEC = 16 / sizeof(REAL);  // entries that one thread moves at once
constexpr int FEW = 16 / sizeof(ACC);   // where arrays of both types are moved
constexpr unsigned ALL = 0xffffffffu;

template <int BYTES> struct Moved;
template <> struct Moved<16> { typedef uint4 type; };
template <> struct Moved<8> { typedef uint2 type; };

// N entries of a row at p, of which `left` remain; whole rows are moved at once.
template <typename T, int N> struct alignas(N * sizeof(T)) Entries {
    typedef typename Moved<N * sizeof(T)>::type All;
    T v[N];

    __device__ void load(const T* p, index_t left, bool aligned) {
        if (aligned) {
            *reinterpret_cast<All*>(v) = *reinterpret_cast<const All*>(p);
        } else {
            for (int i = 0; i < N; i++) v[i] = i < left ? p[i] : T(0.0f);
        }
    }

    __device__ void store(T* p, index_t left, bool aligned) const {
        if (aligned) {
            *reinterpret_cast<All*>(p) = *reinterpret_cast<const All*>(v);
        } else {
            for (int i = 0; i < N && i < left; i++) p[i] = v[i];
        }
    }
};

using Vector = Entries<REAL, VEC>;
template <typename T> using Few = Entries<T, FEW>;

__device__ ACC sum_of_block(ACC x) {
    __shared__ ACC of_warp[32];
    __shared__ ACC total;
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL, x, step);
    if (blockDim.x == 32) return x;
    __syncthreads();  // the sum before this one has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
        ACC s = 0;
        for (int w = 0; w < blockDim.x / 32; w++) s += of_warp[w];
        total = s;
    }
    __syncthreads();
    return total;
}

// NaN if either is NaN.
__device__ ACC larger(ACC a, ACC b) { return a > b || isnan(a) ? a : b; }

__device__ ACC max_of_block(ACC x) {
    __shared__ ACC of_warp[32];
    for (int step = 16; step > 0; step /= 2) x = larger(x, __shfl_xor_sync(ALL, x, step));
    if (blockDim.x == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (int w = 1; w < blockDim.x / 32; w++) x = larger(x, of_warp[w]);
    return x;
}

// The row to read: a wrong index reads row 0 instead of foreign memory.
__device__ index_t readable(index_t i, index_t rows) { return i >= 0 && i < rows ? i : 0; }

__device__ ACC infinity() { return ACC(__longlong_as_double(0x7ff0000000000000LL)); }
__device__ ACC sigmoid(ACC x) { return 1 / (1 + exp(-x)); }

// Many arrays in one launch: each block has CHUNK entries of one of them. Passed by value.
constexpr int MOST = 60;
constexpr index_t CHUNK = 1 << 14;

struct Table {
    void* array[5][MOST];  // up to five of the same size
    index_t size[MOST];
    double number[MOST];
    int first[MOST];       // block of each; unused ones begin after the last block

    __device__ int whose(int block) const {
        int low = 0, high = MOST - 1;  // the last with first <= block
        while (low < high) {
            int middle = (low + high + 1) / 2;
            if (first[middle] <= block) low = middle; else high = middle - 1;
        }
        return low;
    }
};

extern "C" {

// ---- sorting and choosing -------------------------------------------------------------------------------------------

// One warp per row. Round j finds the best entry after the one of round j - 1, in the order: larger first, then the lower
// index; NaN after all numbers. So no entry has to be marked as taken.
__global__ void top_k(const REAL* scores, index_t* chosen, index_t rows, index_t width, index_t k) {
    index_t row = (index_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const REAL* x = scores + row * width;
    ACC last = 0;
    bool last_nan = false;
    index_t last_at = -1;
    for (index_t j = 0; j < k; j++) {
        ACC best = 0;
        bool best_nan = true;
        index_t best_at = width;
        for (index_t i = threadIdx.x; i < width; i += 32) {
            ACC v = ACC(x[i]);
            bool nan = isnan(v);
            bool after = j == 0 || (nan != last_nan ? nan : (!nan && v != last ? v < last : i > last_at));
            bool better = best_at == width || (nan != best_nan ? best_nan : (!nan && v > best));
            if (after && better) best = v, best_nan = nan, best_at = i;
        }
        for (int step = 16; step > 0; step /= 2) {
            ACC v = __shfl_xor_sync(ALL, best, step);
            bool nan = __shfl_xor_sync(ALL, (int)best_nan, step);
            index_t i = __shfl_xor_sync(ALL, best_at, step);
            bool better;
            if (i == width || best_at == width) better = best_at == width;
            else if (nan != best_nan) better = best_nan;
            else better = nan || v == best ? i < best_at : v > best;
            if (better) best = v, best_nan = nan, best_at = i;
        }
        if (threadIdx.x == 0) chosen[row * k + j] = best_at;
        last = best, last_nan = best_nan, last_at = best_at;
    }
}

// How often each key occurs in each part of the keys: one block per part, counters in shared memory.
__global__ void count_in_parts(const index_t* keys, index_t n, index_t part, index_t num_keys, index_t* counts) {
    extern __shared__ int counter[];
    for (int e = threadIdx.x; e < num_keys; e += blockDim.x) counter[e] = 0;
    __syncthreads();
    index_t begin = blockIdx.x * part, end = min(begin + part, n);
    for (index_t i = begin + threadIdx.x; i < end; i += blockDim.x)
        if (keys[i] >= 0 && keys[i] < num_keys) atomicAdd(&counter[keys[i]], 1);  // the host finds that some are missing
    __syncthreads();
    for (int e = threadIdx.x; e < num_keys; e += blockDim.x) counts[e * gridDim.x + blockIdx.x] = counter[e];
}

// next[key, part] = the sum of all counts before it, and start[key] = next[key, 0]: one block, a share for each of 32 warps.
__global__ void sum_before(const index_t* counts, index_t num_keys, index_t parts, index_t* next, index_t* start) {
    __shared__ index_t of_warp[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    index_t size = num_keys * parts, share = (size + 1023) / 1024 * 32;
    index_t begin = min(warp * share, size), end = min(begin + share, size), sum = 0;
    for (index_t i = begin + lane; i < end; i += 32) sum += counts[i];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
    if (lane == 0) of_warp[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < warp; w++) sum += of_warp[w];
    for (index_t first = begin; first < end; first += 32) {
        index_t i = first + lane, count = i < end ? counts[i] : 0, upto = count;
        for (int step = 1; step < 32; step *= 2) {
            index_t left = __shfl_up_sync(ALL, upto, step);
            if (lane >= step) upto += left;
        }
        if (i < end) {
            next[i] = sum + upto - count;
            if (i % parts == 0) start[i / parts] = next[i];
        }
        sum += __shfl_sync(ALL, upto, 31);
    }
    if (threadIdx.x == 1023) start[num_keys] = sum;
}

// The second half of a counting sort: next[key, part] says where the first such key of a part goes. One warp walks
// through a part; lanes with one key find their order among themselves, so that equal keys stay in order.
__global__ void sort_parts(const index_t* keys, index_t n, index_t part, index_t num_keys, const index_t* next,
                           index_t* order) {
    extern __shared__ int taken[];
    for (int e = threadIdx.x; e < num_keys; e += 32) taken[e] = 0;
    __syncwarp();
    index_t begin = blockIdx.x * part, end = min(begin + part, n);
    for (index_t first = begin; first < end; first += 32) {
        index_t i = first + threadIdx.x;
        int key = i < end && keys[i] < num_keys ? (int)keys[i] : -1;
        unsigned same = __match_any_sync(ALL, key);
        int before = __popc(same & ((1u << threadIdx.x) - 1));
        if (key >= 0) order[next[key * gridDim.x + blockIdx.x] + taken[key] + before] = i;
        __syncwarp();
        if (key >= 0 && before == 0) taken[key] += __popc(same);
        __syncwarp();
    }
}

// A wrong key counts as num_keys, one past the last.
__device__ index_t known(index_t key, index_t num_keys) { return key < 0 || key > num_keys ? num_keys : key; }

// Eight bits of the keys in this order.
__global__ void digits(const index_t* keys, const index_t* order, index_t n, index_t num_keys, index_t shift,
                       index_t* digit) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) digit[i] = known(keys[order[i]], num_keys) >> shift & 255;
}

// start[key] = the first place in the order whose key is not smaller; all keys between two neighbours begin there.
__global__ void starts_in_order(const index_t* keys, const index_t* order, index_t n, index_t num_keys,
                                index_t* start) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i > n) return;
    index_t key = i == 0 ? 0 : known(keys[order[i - 1]], num_keys) + 1;
    index_t last = i == n ? num_keys : known(keys[order[i]], num_keys);
    for (; key <= last; key++) start[key] = i;
}

__global__ void count_keys(const index_t* keys, index_t n, index_t num_keys, unsigned long long* counts) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && keys[i] >= 0 && keys[i] < num_keys) atomicAdd(&counts[keys[i]], 1ULL);
}

// y[index[i]] += the values with that index, one after the other: the first of each run adds the whole run.
__global__ void add_runs(const index_t* index, const index_t* order, const REAL* values, index_t n, REAL* y,
                         index_t size) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || (i > 0 && index[order[i - 1]] == index[order[i]])) return;
    index_t at = index[order[i]];
    if (at < 0 || at >= size) return;
    ACC sum = ACC(y[at]);
    for (; i < n && index[order[i]] == at; i++) sum += ACC(values[order[i]]);
    y[at] = REAL(sum);
}

// s[key] = the sum, or the largest, of the values with that key: one block per key.
__global__ void sum_segments(const REAL* values, const index_t* order, const index_t* start, REAL* y) {
    double sum = 0;
    __shared__ double of_thread[128];
    for (index_t n = start[blockIdx.x] + threadIdx.x; n < start[blockIdx.x + 1]; n += blockDim.x)
        sum += double(ACC(values[order[n]]));
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) y[blockIdx.x] = REAL(ACC(of_thread[0]));
}

__global__ void max_segments(const REAL* values, const index_t* order, const index_t* start, REAL* y) {
    ACC best = -infinity();
    for (index_t n = start[blockIdx.x] + threadIdx.x; n < start[blockIdx.x + 1]; n += blockDim.x)
        best = larger(best, ACC(values[order[n]]));
    best = max_of_block(best);
    if (threadIdx.x == 0) y[blockIdx.x] = REAL(best);
}

// y[i] = x[index[i]], and y[index[i]] = x[i].
__global__ void take(const REAL* x, const index_t* index, REAL* y, index_t n, index_t size) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[readable(index[i], size)];
}

__global__ void scatter(const REAL* x, const index_t* index, REAL* y, index_t n, index_t size) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && index[i] >= 0 && index[i] < size) y[index[i]] = x[i];
}

// ---- random numbers -------------------------------------------------------------------------------------------------

// Philox4x32-10: thread i makes y[2 i] and y[2 i + 1] of the four words for the counter (i, its upper half, draw, 0).
__global__ void uniforms(const index_t* key, index_t draw, double* y, index_t size) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i >= size) return;
    unsigned a = (unsigned)i, b = (unsigned)(i >> 32), c = (unsigned)draw, d = 0;
    unsigned k = (unsigned)key[0], m = (unsigned)key[1];
    for (int round = 0; round < 10; round++) {
        unsigned one = 0xD2511F53u * a, above_one = __umulhi(0xD2511F53u, a);
        unsigned other = 0xCD9E8D57u * c, above_other = __umulhi(0xCD9E8D57u, c);
        a = above_other ^ b ^ k, b = other, c = above_one ^ d ^ m, d = one;
        k += 0x9E3779B9u, m += 0xBB67AE85u;
    }
    y[2 * i] = double((unsigned long long)a << 21 | b >> 11) * 0x1p-53;
    if (2 * i + 1 < size) y[2 * i + 1] = double((unsigned long long)c << 21 | d >> 11) * 0x1p-53;
}

// ---- entries of whole arrays: one thread for VEC of them -------------------------------------------------------------

__global__ void add(const REAL* a, const REAL* b, REAL* y, index_t n, bool aligned) {
    index_t i = ((index_t)blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    if (i >= n) return;
    Vector u, v;
    u.load(a + i, n - i, aligned && n - i >= VEC);
    v.load(b + i, n - i, aligned && n - i >= VEC);
    for (int j = 0; j < VEC; j++) u.v[j] = REAL(ACC(u.v[j]) + ACC(v.v[j]));
    u.store(y + i, n - i, aligned && n - i >= VEC);
}

// y = x without gaps, x[planes, rows, columns, per_row VEC] with steps from one to the next.
__global__ void dense(const REAL* x, REAL* y, unsigned pieces, unsigned rows, unsigned columns, unsigned per_row,
                      index_t plane_step, index_t row_step, index_t column_step) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pieces) return;
    unsigned piece = i % per_row, column = i / per_row % columns, row = i / per_row / columns;
    Vector v;
    v.load(x + row / rows * plane_step + row % rows * row_step + column * column_step + piece * VEC, VEC, true);
    v.store(y + (index_t)i * VEC, VEC, true);
}

// Three bfloat16, upper halves of a float32, that add up to x [rows, width]: each takes 8 of its 24 bits.
__global__ void cut_in_three(const float* x, unsigned short* y, index_t n, index_t width, index_t row_step,
                             index_t part_step) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float left = x[i];
    y += i / width * row_step + i % width;
    for (int part = 0; part < 3; part++) {
        unsigned bits = __float_as_uint(left) & 0xffff0000;
        y[part * part_step] = bits >> 16;
        left = isfinite(left) ? left - __uint_as_float(bits) : 0.0f;
    }
}

// ---- rows to experts and back: one block per row, VEC entries per thread --------------------------------------------

__global__ void take_rows(const REAL* x, const index_t* index, REAL* y, index_t rows, index_t d, bool aligned) {
    const REAL* from = x + readable(index[blockIdx.x], rows) * d;
    REAL* to = y + blockIdx.x * d;
    for (index_t j = threadIdx.x * VEC; j < d; j += blockDim.x * VEC) {
        Vector v;
        v.load(from + j, d - j, aligned);
        v.store(to + j, d - j, aligned);
    }
}

// y_t = Σ w_n r_n over the rows n of t, which are order[start[t]] ...; w null stands for ones.
__global__ void combine(const REAL* r, const ACC* w, const index_t* order, const index_t* start, REAL* y, index_t d,
                        bool aligned) {
    index_t begin = start[blockIdx.x], end = start[blockIdx.x + 1];
    for (index_t j = threadIdx.x * VEC; j < d; j += blockDim.x * VEC) {
        ACC sum[VEC];
        for (int i = 0; i < VEC; i++) sum[i] = 0;
        for (index_t n = begin; n < end; n++) {
            index_t row = order[n];
            ACC weight = w == nullptr ? ACC(1) : w[row];
            Vector v;
            v.load(r + row * d + j, d - j, aligned);
            for (int i = 0; i < VEC; i++) sum[i] += weight * ACC(v.v[i]);
        }
        Vector out;
        for (int i = 0; i < VEC; i++) out.v[i] = REAL(sum[i]);
        out.store(y + blockIdx.x * d + j, d - j, aligned);
    }
}

// dr_n = w_n dy[token_n] and dw_n = r_n · dy[token_n].
__global__ void combine_gradient(const REAL* grad, const REAL* r, const ACC* w, const index_t* token, REAL* d_r,
                                 ACC* d_w, index_t tokens, index_t d, bool aligned) {
    const REAL* g = grad + readable(token[blockIdx.x], tokens) * d;
    index_t row = blockIdx.x * d;
    ACC weight = w[blockIdx.x], product = 0;
    for (index_t j = threadIdx.x * VEC; j < d; j += blockDim.x * VEC) {
        Vector a, b;
        a.load(g + j, d - j, aligned);
        b.load(r + row + j, d - j, aligned);
        for (int i = 0; i < VEC; i++) {
            product += ACC(a.v[i]) * ACC(b.v[i]);
            a.v[i] = REAL(weight * ACC(a.v[i]));
        }
        a.store(d_r + row + j, d - j, aligned);
    }
    product = sum_of_block(product);
    if (threadIdx.x == 0) d_w[blockIdx.x] = product;
}

__global__ void row_products(const REAL* a, const REAL* b, REAL* y, index_t d, bool aligned) {
    ACC product = 0;
    for (index_t j = threadIdx.x * VEC; j < d; j += blockDim.x * VEC) {
        Vector u, v;
        u.load(a + blockIdx.x * d + j, d - j, aligned);
        v.load(b + blockIdx.x * d + j, d - j, aligned);
        for (int i = 0; i < VEC; i++) product += ACC(u.v[i]) * ACC(v.v[i]);
    }
    product = sum_of_block(product);
    if (threadIdx.x == 0) y[blockIdx.x] = REAL(product);
}

// ---- sums and biases of experts ----------------------------------------------------------------------------------

// Sums over the rows of each expert: blockIdx.y is the expert, each thread adds one column.
__global__ void expert_sums(const REAL* values, const index_t* offsets, REAL* total, index_t width) {
    index_t j = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= width) return;
    ACC sum = 0;
    for (index_t n = offsets[blockIdx.y]; n < offsets[blockIdx.y + 1]; n++) sum += ACC(values[n * width + j]);
    total[blockIdx.y * width + j] = REAL(sum);
}

// y_n += b_e: one block per row, which finds its expert by bisection. Rows of no expert stay as they are.
__global__ void add_expert_bias(REAL* y, const REAL* bias, const index_t* offsets, index_t num_experts, index_t width) {
    if (blockIdx.x >= offsets[num_experts]) return;
    index_t low = 0, high = num_experts - 1;  // the last e with offsets[e] <= n
    while (low < high) {
        index_t middle = (low + high + 1) / 2;
        if (offsets[middle] <= blockIdx.x) low = middle; else high = middle - 1;
    }
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) {
        REAL* at = y + blockIdx.x * width + j;
        *at = REAL(ACC(*at) + ACC(bias[low * width + j]));
    }
}

// ---- activations ----------------------------------------------------------------------------------------------------

__global__ void silu(const REAL* x, REAL* y, index_t n) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = REAL(ACC(x[i]) * sigmoid(ACC(x[i])));
}

__global__ void silu_gradient(const REAL* grad, const REAL* x, REAL* dx, index_t n) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    ACC v = ACC(x[i]), s = sigmoid(v);
    dx[i] = REAL(ACC(grad[i]) * s * (1 + v * (1 - s)));
}

// Rows of `width` entries; gate and up of a row begin `step` entries after those of the row before.
__global__ void swiglu(const REAL* gate, const REAL* up, index_t gate_step, index_t up_step, REAL* y, index_t width,
                       bool aligned) {
    index_t row = blockIdx.x;
    index_t j = ((index_t)blockIdx.y * blockDim.x + threadIdx.x) * VEC;
    if (j >= width) return;
    Vector g, u;
    g.load(gate + row * gate_step + j, width - j, aligned);
    u.load(up + row * up_step + j, width - j, aligned);
    for (int i = 0; i < VEC; i++) {
        ACC v = ACC(g.v[i]);
        g.v[i] = REAL(v * sigmoid(v) * ACC(u.v[i]));
    }
    g.store(y + row * width + j, width - j, aligned);
}

__global__ void swiglu_gradient(const REAL* grad, const REAL* gate, const REAL* up, index_t gate_step, index_t up_step,
                                REAL* d, index_t width, bool aligned) {
    index_t row = blockIdx.x;
    index_t j = ((index_t)blockIdx.y * blockDim.x + threadIdx.x) * VEC;
    if (j >= width) return;
    Vector g, a, b;
    g.load(grad + row * width + j, width - j, aligned);
    a.load(gate + row * gate_step + j, width - j, aligned);
    b.load(up + row * up_step + j, width - j, aligned);
    for (int i = 0; i < VEC; i++) {
        ACC dy = ACC(g.v[i]), x = ACC(a.v[i]), u = ACC(b.v[i]), s = sigmoid(x);
        a.v[i] = REAL(dy * u * s * (1 + x * (1 - s)));
        b.v[i] = REAL(dy * x * s);
    }
    a.store(d + 2 * row * width + j, width - j, aligned);
    b.store(d + (2 * row + 1) * width + j, width - j, aligned);
}

__device__ ACC gelu_cdf(ACC x, bool approximate) {
    const ACC c = ACC(0.79788456080286535588);  // √(2/π)
    return approximate ? ACC(0.5) * (1 + tanh(c * (x + ACC(0.044715) * x * x * x))) : normcdf(x);
}

__global__ void normal_cdf(const REAL* x, REAL* y, index_t n) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = REAL(normcdf(ACC(x[i])));
}

__global__ void gelu(const REAL* x, REAL* y, bool approximate, index_t n) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = REAL(ACC(x[i]) * gelu_cdf(ACC(x[i]), approximate));
}

__global__ void gelu_gradient(const REAL* grad, const REAL* x, REAL* dx, bool approximate, index_t n) {
    index_t i = (index_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    ACC v = ACC(x[i]), cdf = gelu_cdf(v, approximate), density;
    if (approximate) {
        density = 2 * cdf * (1 - cdf) * ACC(0.79788456080286535588) * (1 + ACC(3 * 0.044715) * v * v);
    } else {
        density = exp(ACC(-0.5) * v * v) * ACC(0.39894228040143267794);  // 1/√(2π)
    }
    dx[i] = REAL(ACC(grad[i]) * (cdf + v * density));
}

// ---- along rows: one block per row ----------------------------------------------------------------------------------

__device__ ACC row_maximum(const REAL* x, index_t width) {
    ACC best = -infinity();
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) best = larger(best, ACC(x[j]));
    return max_of_block(best);
}

__device__ ACC row_exp_sum(const REAL* x, ACC shift, index_t width) {
    ACC sum = 0;
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) sum += exp(ACC(x[j]) - shift);
    return sum_of_block(sum);
}

__global__ void softmax(const REAL* x, REAL* y, index_t width) {
    x += blockIdx.x * width, y += blockIdx.x * width;
    ACC shift = row_maximum(x, width), total = row_exp_sum(x, shift, width);
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) y[j] = REAL(exp(ACC(x[j]) - shift) / total);
}

__global__ void softmax_gradient(const REAL* grad, const REAL* y, REAL* dx, index_t width) {
    grad += blockIdx.x * width, y += blockIdx.x * width, dx += blockIdx.x * width;
    ACC sum = 0;
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) sum += ACC(grad[j]) * ACC(y[j]);
    sum = sum_of_block(sum);
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) dx[j] = REAL(ACC(y[j]) * (ACC(grad[j]) - sum));
}

__global__ void log_softmax(const REAL* x, REAL* y, index_t width) {
    x += blockIdx.x * width, y += blockIdx.x * width;
    ACC shift = row_maximum(x, width), log_total = log(row_exp_sum(x, shift, width));
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) y[j] = REAL(ACC(x[j]) - shift - log_total);
}

__global__ void log_softmax_gradient(const REAL* grad, const REAL* y, REAL* dx, index_t width) {
    grad += blockIdx.x * width, y += blockIdx.x * width, dx += blockIdx.x * width;
    ACC sum = 0;
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) sum += ACC(grad[j]);
    sum = sum_of_block(sum);
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) dx[j] = REAL(ACC(grad[j]) - exp(ACC(y[j])) * sum);
}

__global__ void cross_entropy(const REAL* x, const index_t* target, REAL* loss, REAL* p, index_t width) {
    x += blockIdx.x * width, p += blockIdx.x * width;
    ACC shift = row_maximum(x, width), total = row_exp_sum(x, shift, width);
    for (index_t j = threadIdx.x; j < width; j += blockDim.x) p[j] = REAL(exp(ACC(x[j]) - shift) / total);
    index_t at = target[blockIdx.x];  // a class that does not exist has no loss: NaN
    ACC logit = at >= 0 && at < width ? ACC(x[at]) : infinity() - infinity();
    if (threadIdx.x == 0) loss[blockIdx.x] = REAL(log(total) - (logit - shift));
}

__global__ void cross_entropy_gradient(const REAL* grad, const REAL* p, const index_t* target, REAL* dx,
                                       index_t width) {
    p += blockIdx.x * width, dx += blockIdx.x * width;
    ACC g = ACC(grad[blockIdx.x]);
    for (index_t j = threadIdx.x; j < width; j += blockDim.x)
        dx[j] = REAL(g * (ACC(p[j]) - ACC(j == target[blockIdx.x])));
}

__global__ void rms_norm(const REAL* x, const REAL* weight, double eps, REAL* y, ACC* scale, index_t width,
                         bool aligned) {
    x += blockIdx.x * width, y += blockIdx.x * width;
    ACC squares = 0;
    for (index_t j = threadIdx.x * VEC; j < width; j += blockDim.x * VEC) {
        Vector v;
        v.load(x + j, width - j, aligned);
        for (int i = 0; i < VEC; i++) squares += ACC(v.v[i]) * ACC(v.v[i]);
    }
    ACC r = 1 / sqrt(sum_of_block(squares) / width + ACC(eps));
    for (index_t j = threadIdx.x * VEC; j < width; j += blockDim.x * VEC) {
        Vector v, w;
        v.load(x + j, width - j, aligned);
        w.load(weight + j, width - j, aligned);
        for (int i = 0; i < VEC; i++) v.v[i] = REAL(ACC(v.v[i]) * r * ACC(w.v[i]));
        v.store(y + j, width - j, aligned);
    }
    if (threadIdx.x == 0) scale[blockIdx.x] = r;
}

__global__ void rms_norm_gradient(const REAL* grad, const REAL* x, const ACC* scale, const REAL* weight, REAL* dx,
                                  index_t width, bool aligned) {
    grad += blockIdx.x * width, x += blockIdx.x * width, dx += blockIdx.x * width;
    ACC r = scale[blockIdx.x], sum = 0;
    for (index_t j = threadIdx.x * VEC; j < width; j += blockDim.x * VEC) {
        Vector g, v, w;
        g.load(grad + j, width - j, aligned);
        v.load(x + j, width - j, aligned);
        w.load(weight + j, width - j, aligned);
        for (int i = 0; i < VEC; i++) sum += ACC(g.v[i]) * ACC(w.v[i]) * ACC(v.v[i]) * r;
    }
    ACC mean = sum_of_block(sum) / width;
    for (index_t j = threadIdx.x * VEC; j < width; j += blockDim.x * VEC) {
        Vector g, v, w;
        g.load(grad + j, width - j, aligned);
        v.load(x + j, width - j, aligned);
        w.load(weight + j, width - j, aligned);
        for (int i = 0; i < VEC; i++) g.v[i] = REAL(r * (ACC(g.v[i]) * ACC(w.v[i]) - ACC(v.v[i]) * r * mean));
        g.store(dx + j, width - j, aligned);
    }
}

// Σ g x̂ over `part` rows: blockIdx.x is the part, since there may be more than 65,535; each thread adds VEC columns.
__global__ void rms_norm_weight_gradient(const REAL* grad, const REAL* x, const ACC* scale, ACC* sums, index_t rows,
                                         index_t part, index_t width, bool aligned) {
    index_t j = ((index_t)blockIdx.y * blockDim.x + threadIdx.x) * VEC;
    if (j >= width) return;
    index_t begin = blockIdx.x * part, end = min(begin + part, rows);
    ACC sum[VEC] = {};
    for (index_t n = begin; n < end; n++) {
        Vector g, v;
        g.load(grad + n * width + j, width - j, aligned);
        v.load(x + n * width + j, width - j, aligned);
        for (int i = 0; i < VEC; i++) sum[i] += ACC(g.v[i]) * ACC(v.v[i]) * scale[n];
    }
    for (int i = 0; i < VEC && j + i < width; i++) sums[blockIdx.x * width + j + i] = sum[i];
}

// ---- attention ------------------------------------------------------------------------------------------------------

// x [batch, heads, length, 2 half] with steps, y the same without gaps. A thread turns VEC pairs of a vector.
__global__ void rotate(const REAL* x, const REAL* cosine, const REAL* sine, REAL* y, unsigned pieces, unsigned heads,
                       unsigned length, unsigned half, index_t batch_step, index_t head_step, index_t step,
                       bool aligned) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, per_vector = (half + VEC - 1) / VEC;
    if (i >= pieces) return;
    unsigned vector = i / per_vector, j = i % per_vector * VEC, position = vector % length, left = half - j;
    unsigned head = vector / length;
    x += head / heads * batch_step + head % heads * head_step + position * step + j;
    y += (index_t)vector * 2 * half + j;
    Vector a, b, c, s;
    a.load(x, left, aligned);
    b.load(x + half, left, aligned);
    c.load(cosine + position * half + j, left, aligned);
    s.load(sine + position * half + j, left, aligned);
    for (int k = 0; k < VEC; k++) {
        ACC u = ACC(a.v[k]), v = ACC(b.v[k]);
        a.v[k] = REAL(u * ACC(c.v[k]) - v * ACC(s.v[k]));
        b.v[k] = REAL(v * ACC(c.v[k]) + u * ACC(s.v[k]));
    }
    a.store(y, left, aligned);
    b.store(y + half, left, aligned);
}

// e = exp(s - row maximum) where the key is not later than the query, else 0; and the sum of the row.
__global__ void attention_weights(const ACC* scores, REAL* e, ACC* total, index_t length, index_t num_keys) {
    scores += blockIdx.x * num_keys, e += blockIdx.x * num_keys;
    index_t seen = num_keys - length + blockIdx.x % length + 1;
    ACC best = -infinity();
    for (index_t j = threadIdx.x; j < seen; j += blockDim.x) best = larger(best, scores[j]);
    best = max_of_block(best);
    ACC sum = 0;
    for (index_t j = threadIdx.x; j < num_keys; j += blockDim.x) {
        REAL weight = j < seen ? REAL(exp(scores[j] - best)) : REAL(0.0f);
        e[j] = weight;
        sum += ACC(weight);
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) total[blockIdx.x] = sum;
}

// y = x / total, row by row.
__global__ void divide_rows(const ACC* x, const ACC* total, REAL* y, index_t width) {
    for (index_t j = threadIdx.x; j < width; j += blockDim.x)
        y[blockIdx.x * width + j] = REAL(x[blockIdx.x * width + j] / total[blockIdx.x]);
}

__global__ void divide_gradient(const REAL* grad, const ACC* total, REAL* y, index_t width) {
    for (index_t j = threadIdx.x; j < width; j += blockDim.x)
        y[blockIdx.x * width + j] = REAL(ACC(grad[blockIdx.x * width + j]) / total[blockIdx.x]);
}

// ds = e (dp - Σ g o), with g and o of width d.
__global__ void score_gradient(const ACC* d_p, const REAL* e, const REAL* g, const REAL* o, REAL* d_s, index_t num_keys,
                               index_t d) {
    ACC sum = 0;
    for (index_t j = threadIdx.x; j < d; j += blockDim.x)
        sum += ACC(g[blockIdx.x * d + j]) * ACC(o[blockIdx.x * d + j]);
    sum = sum_of_block(sum);
    for (index_t j = threadIdx.x; j < num_keys; j += blockDim.x) {
        index_t at = blockIdx.x * num_keys + j;
        ACC weight = ACC(e[at]);  // zero for later keys, half of all: no need to read d_p there
        d_s[at] = REAL(weight == 0 ? ACC(0) : weight * (d_p[at] - sum));
    }
}

// ---- the optimizer --------------------------------------------------------------------------------------------------

// Block b of the table's blocks adds the squares of its entries; sums[b].
__global__ void squares(Table table, double* sums) {
    __shared__ double of_thread[256];
    int of = table.whose(blockIdx.x);
    const REAL* x = (const REAL*)table.array[0][of];
    index_t begin = (index_t)(blockIdx.x - table.first[of]) * CHUNK, end = min(begin + CHUNK, table.size[of]);
    bool aligned = (index_t)x % 16 == 0;
    double sum = 0;
    for (index_t i = begin + threadIdx.x * VEC; i < end; i += blockDim.x * VEC) {
        Vector v;
        v.load(x + i, end - i, aligned && end - i >= VEC);
        for (int j = 0; j < VEC; j++) sum += double(ACC(v.v[j])) * double(ACC(v.v[j]));
    }
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = of_thread[0];
}

// θ, gradient, m, v and the rounded θ of every parameter; the last is null where there is none. θ, m and v are of type
// ACC, the others may be narrower.
__global__ void adamw(Table table, const double* now, double beta1, double beta2, double eps) {
    double scale = now[0], lr = now[1], rate = lr / now[2], root = 1 / sqrt(now[3]);
    if (!isfinite(scale)) return;
    int of = table.whose(blockIdx.x);
    ACC* __restrict__ p = (ACC*)table.array[0][of];
    ACC* __restrict__ m = (ACC*)table.array[2][of];
    ACC* __restrict__ v = (ACC*)table.array[3][of];
    const REAL* __restrict__ grad = (const REAL*)table.array[1][of];
    REAL* __restrict__ rounded = (REAL*)table.array[4][of];
    ACC keep = ACC(1 - lr * table.number[of]);
    index_t begin = (index_t)(blockIdx.x - table.first[of]) * CHUNK, end = min(begin + CHUNK, table.size[of]);
    bool aligned = ((index_t)p | (index_t)m | (index_t)v | (index_t)grad | (index_t)rounded) % 16 == 0;
    for (index_t i = begin + threadIdx.x * FEW; i < end; i += blockDim.x * FEW) {
        bool whole = aligned && end - i >= FEW;
        Few<ACC> q, first, second;
        Few<REAL> g, narrow;
        q.load(p + i, end - i, whole);
        first.load(m + i, end - i, whole);
        second.load(v + i, end - i, whole);
        g.load(grad + i, end - i, whole);
        for (int j = 0; j < FEW; j++) {
            ACC d = ACC(g.v[j]) * ACC(scale);
            first.v[j] = ACC(beta1) * first.v[j] + ACC(1 - beta1) * d;
            second.v[j] = ACC(beta2) * second.v[j] + ACC(1 - beta2) * d * d;
            q.v[j] = q.v[j] * keep - ACC(rate) * first.v[j] / (sqrt(second.v[j]) * ACC(root) + ACC(eps));
            narrow.v[j] = REAL(q.v[j]);
        }
        q.store(p + i, end - i, whole);
        first.store(m + i, end - i, whole);
        second.store(v + i, end - i, whole);
        if (rounded) narrow.store(rounded + i, end - i, whole);
    }
}

}  // extern "C"
