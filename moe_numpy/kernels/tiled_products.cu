// Products of all experts in one launch, for types without tensor cores; compiled for each of them and each size of tile.
//
// A block of 256 threads computes TILE x TILE entries of y. Sixteen steps of the sum at a time, the rows of a and columns
// of b that it needs lie in shared memory; from there each thread takes ACROSS entries of a and ACROSS of b at every step
// and adds their ACROSS x ACROSS products in registers. A thread's entries are fours of neighbours, 64 apart:
//
//     TILE 128, ACROSS 8:   0 0 0 0  1 1 1 1  2 2 2 2 ... 15 15 15 15 | 0 0 0 0  1 1 1 1 ... 15 15 15 15
//
// so that one instruction reads four, and the 16 threads of a row read 64 entries that lie side by side. Every sum has
// one order, whatever the tile.

#include <cuda_bf16.h>

typedef long long index_t;

constexpr int STEPS = 16, ACROSS = TILE / 16;

struct alignas(16) Four { ACC v[4]; };

// The part of a matrix that one block needs at a step: what one thread fetches of it, and where that goes. Entry (i, s)
// lies at from[i across + s along]; neighbouring threads fetch neighbours in memory.
struct Part {
    static constexpr int EACH = STEPS * TILE / 256;
    const REAL* from;
    index_t across, along, size, left;  // the part has `size` entries across, and `left` steps remain
    int i, s, next_i, next_s;           // of the first entry; distance to the next
    REAL held[EACH];

    __device__ Part(const REAL* from, index_t across, index_t along, index_t size, index_t depth)
        : from(from), across(across), along(along), size(size), left(depth) {
        int t = threadIdx.x;
        if (along == 1) i = t / STEPS, s = t % STEPS, next_i = 256 / STEPS, next_s = 0;
        else i = t % TILE, s = t / TILE, next_i = 0, next_s = 256 / TILE;
        this->from += i * across + s * along;
    }

    __device__ void fetch() {
        index_t next = next_i * across + next_s * along;
        for (int r = 0; r < EACH; r++)
            held[r] = i + r * next_i < size && s + r * next_s < left ? from[r * next] : REAL(0.0f);
        from += STEPS * along;
        left -= STEPS;
    }

    __device__ void store(ACC (&to)[STEPS][TILE + 4]) const {
        for (int r = 0; r < EACH; r++) to[s + r * next_s][i + r * next_i] = ACC(held[r]);
    }
};

// y(i, j) = Σ_k a(i, k) b(k, j) for i < m and j < n, where a(i, k) = a[i a_m + k a_k], b(k, j) = b[k b_k + j b_n].
__device__ void tile_of_product(const REAL* a, index_t a_m, index_t a_k, const REAL* b, index_t b_k, index_t b_n, REAL* y,
                                index_t y_m, index_t m, index_t n, index_t depth) {
    __shared__ alignas(16) ACC shared_a[STEPS][TILE + 4], shared_b[STEPS][TILE + 4];
    Part part_a(a, a_m, a_k, m, depth), part_b(b, b_n, b_k, n, depth);
    ACC sum[ACROSS][ACROSS] = {};
    int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    part_a.fetch();
    part_b.fetch();
    for (index_t k = 0; k < depth; k += STEPS) {
        part_a.store(shared_a);
        part_b.store(shared_b);
        __syncthreads();
        part_a.fetch();  // those of the next step arrive while this one is computed
        part_b.fetch();
        for (int s = 0; s < STEPS; s++) {
            Four u[ACROSS / 4], v[ACROSS / 4];
            for (int f = 0; f < ACROSS / 4; f++) {
                u[f] = *reinterpret_cast<const Four*>(&shared_a[s][64 * f + row]);
                v[f] = *reinterpret_cast<const Four*>(&shared_b[s][64 * f + column]);
            }
            for (int i = 0; i < ACROSS; i++)
                for (int j = 0; j < ACROSS; j++) sum[i][j] += u[i / 4].v[i % 4] * v[j / 4].v[j % 4];
        }
        __syncthreads();
    }
    for (int i = 0; i < ACROSS; i++)
        for (int j = 0; j < ACROSS; j++) {
            int at_i = i / 4 * 64 + row + i % 4, at_j = j / 4 * 64 + column + j % 4;
            if (at_i < m && at_j < n) y[at_i * y_m + at_j] = REAL(sum[i][j]);
        }
}

__device__ index_t bound(const index_t* offsets, index_t e, index_t rows) { return min(max(offsets[e], 0LL), rows); }

extern "C" {

// y[n] = b_e a[n] for every row n of expert e, where b_e(k, j) = b[e depth width + k b_k + j b_n]; 0 for rows of no expert.
__global__ void __launch_bounds__(256) rows_by_matrices(const REAL* a, const REAL* b, REAL* y, const index_t* offsets, index_t rows, index_t num_experts,
                 index_t width, index_t depth, index_t b_k, index_t b_n) {
    index_t tile = blockIdx.y, begin = 0, end = 0, e = 0;
    for (; e <= num_experts; e++) {  // whose tile is it?
        begin = bound(offsets, e, rows), end = e < num_experts ? bound(offsets, e + 1, rows) : rows;
        index_t tiles = max((end - begin + TILE - 1) / TILE, 0LL);
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (e > num_experts) return;
    index_t row = begin + tile * TILE, column = blockIdx.x * (index_t)TILE;
    tile_of_product(a + row * depth, depth, 1, b + (e < num_experts ? e * depth * width + column * b_n : 0), b_k, b_n,
                    y + row * width + column, width, end - row, width - column, e < num_experts ? depth : 0);
}

// y_e = Σ a[n] b[n]ᵀ over the rows n of expert e.
__global__ void __launch_bounds__(256) sums_of_outer_products(const REAL* a, const REAL* b, REAL* y, const index_t* offsets, index_t rows, index_t height,
                       index_t width) {
    index_t e = blockIdx.z, begin = bound(offsets, e, rows), end = bound(offsets, e + 1, rows);
    index_t row = blockIdx.y * (index_t)TILE, column = blockIdx.x * (index_t)TILE;
    tile_of_product(a + begin * height + row, 1, height, b + begin * width + column, width, 1,
                    y + (e * height + row) * width + column, width, height - row, width - column, end - begin);
}

}
