// Products of all experts in one launch, for types without tensor cores; compiled for each of them and each size of tile.
//
// A block of 256 threads computes TILE x TILE entries of y. STEPS steps of the sum at a time, the rows of a and columns of
// b that it needs lie in shared memory, while those of the next steps are on their way to the other half of it. From
// there each thread takes ACROSS entries of a and ACROSS of b at every step and adds their ACROSS x ACROSS products in
// registers. A thread's entries are fours of neighbours, 64 apart; of 16 x 16 threads, a warp has 4 x 8, so that one
// instruction reads four entries and the threads of a warp read few different ones:
//
//     TILE 128, ACROSS 8:   0 0 0 0  1 1 1 1  2 2 2 2 ... 15 15 15 15 | 0 0 0 0  1 1 1 1 ... 15 15 15 15
//
// Every sum has one order, whatever the tile. WIDE is 4 where sizes and addresses allow fetching fours, otherwise 1.

#include <cuda_bf16.h>

typedef long long index_t;

constexpr int STEPS = 1024 / TILE, ACROSS = TILE / 16;  // a thread fetches four entries of each matrix
constexpr int BLOCKS = sizeof(ACC) == 4 ? 2 : 1;        // on a multiprocessor at once: as many as registers allow

struct alignas(16) Four { ACC v[4]; };
struct alignas(WIDE * sizeof(REAL)) Fetched { REAL v[WIDE]; };
typedef ACC Shared[2][STEPS][TILE + 4];

// The part of a matrix that one block needs at a step: what one thread fetches of it, and where that goes. Its lines lie
// `stride` apart. ALONG: a line is the steps of one entry across; otherwise it is all entries across of one step.
template <bool ALONG>
struct Part {
    static constexpr int OF_LINE = (ALONG ? STEPS : TILE) / WIDE, EACH = 4 / WIDE, LINES = 256 / OF_LINE;
    const REAL* from;
    index_t stride;
    int size, left, i, s;  // the part has `size` entries across, and `left` steps remain; the first entry is (i, s)
    Fetched held[EACH];

    __device__ Part(const REAL* from, index_t stride, index_t size, index_t depth)
        : stride(stride), size(min(size, index_t(TILE))), left(depth) {
        int line = threadIdx.x / OF_LINE, at = threadIdx.x % OF_LINE * WIDE;
        i = ALONG ? line : at, s = ALONG ? at : line;
        this->from = from + line * stride + at;
    }

    __device__ void fetch() {
        for (int r = 0; r < EACH; r++) {
            held[r] = {};
            if (i + (ALONG ? r * LINES : 0) < size && s + (ALONG ? 0 : r * LINES) < left)
                held[r] = *reinterpret_cast<const Fetched*>(from + r * LINES * stride);
        }
        from += ALONG ? STEPS : STEPS * stride;
        left -= STEPS;
    }

    __device__ void store(ACC (&to)[STEPS][TILE + 4]) const {
        for (int r = 0; r < EACH; r++)
            for (int q = 0; q < WIDE; q++)
                to[s + (ALONG ? q : r * LINES)][i + (ALONG ? r * LINES : q)] = ACC(held[r].v[q]);
    }
};

// y(i, j) = Σ_k a(i, k) b(k, j) for i < m and j < n. A_ALONG: a(i, k) = a[i a_stride + k], otherwise a[k a_stride + i];
// B_ALONG: b(k, j) = b[j b_stride + k], otherwise b[k b_stride + j].
template <bool A_ALONG, bool B_ALONG>
__device__ void tile_of_product(Shared& shared_a, Shared& shared_b, const REAL* a, index_t a_stride, const REAL* b,
                                index_t b_stride, REAL* y, index_t y_stride, index_t m, index_t n, index_t depth) {
    Part<A_ALONG> part_a(a, a_stride, m, depth);
    Part<B_ALONG> part_b(b, b_stride, n, depth);
    ACC sum[ACROSS][ACROSS] = {};
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row = (warp / 2 * 4 + lane / 8) * 4, column = (warp % 2 * 8 + lane % 8) * 4;
    int half = 0;
    part_a.fetch();
    part_b.fetch();
    part_a.store(shared_a[half]);
    part_b.store(shared_b[half]);
    __syncthreads();
    for (index_t k = 0; k < depth; k += STEPS, half ^= 1) {
        part_a.fetch();  // those of the next steps arrive while these are computed
        part_b.fetch();
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            Four u[ACROSS / 4], v[ACROSS / 4];
            for (int f = 0; f < ACROSS / 4; f++) {
                u[f] = *reinterpret_cast<const Four*>(&shared_a[half][s][64 * f + row]);
                v[f] = *reinterpret_cast<const Four*>(&shared_b[half][s][64 * f + column]);
            }
            for (int i = 0; i < ACROSS; i++)
                for (int j = 0; j < ACROSS; j++) sum[i][j] += u[i / 4].v[i % 4] * v[j / 4].v[j % 4];
        }
        part_a.store(shared_a[half ^ 1]);
        part_b.store(shared_b[half ^ 1]);
        __syncthreads();
    }
    for (int i = 0; i < ACROSS; i++)
        for (int j = 0; j < ACROSS; j++) {
            int at_i = i / 4 * 64 + row + i % 4, at_j = j / 4 * 64 + column + j % 4;
            if (at_i < m && at_j < n) y[at_i * y_stride + at_j] = REAL(sum[i][j]);
        }
}

__device__ index_t bound(const index_t* offsets, index_t e, index_t rows) { return min(max(offsets[e], 0LL), rows); }

extern "C" {

// y[n] = b_e a[n] for every row n of expert e, where b_e(k, j) = b[e depth width + k b_k + j b_n] and one of b_k and b_n
// is 1; 0 for rows of no expert.
__global__ void __launch_bounds__(256, BLOCKS) rows_by_matrices(const REAL* a, const REAL* b, REAL* y,
                                                                const index_t* offsets, index_t rows, index_t num_experts,
                                                                index_t width, index_t depth, index_t b_k, index_t b_n) {
    __shared__ alignas(16) Shared shared_a, shared_b;
    index_t tile = blockIdx.y, begin = 0, end = 0, e = 0;
    for (; e <= num_experts; e++) {  // whose tile is it?
        begin = bound(offsets, e, rows), end = e < num_experts ? bound(offsets, e + 1, rows) : rows;
        index_t tiles = max((end - begin + TILE - 1) / TILE, 0LL);
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (e > num_experts) return;
    index_t row = begin + tile * TILE, column = blockIdx.x * index_t(TILE), m = end - row, n = width - column;
    a += row * depth, y += row * width + column;
    if (e < num_experts) b += e * depth * width + column * b_n;
    else depth = 0;
    if (b_k == 1) tile_of_product<true, true>(shared_a, shared_b, a, depth, b, b_n, y, width, m, n, depth);
    else tile_of_product<true, false>(shared_a, shared_b, a, depth, b, b_k, y, width, m, n, depth);
}

// y_e = Σ a[n] b[n]ᵀ over the rows n of expert e.
__global__ void __launch_bounds__(256, BLOCKS) sums_of_outer_products(const REAL* a, const REAL* b, REAL* y,
                                                                      const index_t* offsets, index_t rows,
                                                                      index_t height, index_t width) {
    __shared__ alignas(16) Shared shared_a, shared_b;
    index_t e = blockIdx.z, begin = bound(offsets, e, rows), end = bound(offsets, e + 1, rows);
    index_t row = blockIdx.y * index_t(TILE), column = blockIdx.x * index_t(TILE);
    tile_of_product<false, false>(shared_a, shared_b, a + begin * height + row, height, b + begin * width + column, width,
                                  y + (e * height + row) * width + column, width, height - row, width - column,
                                  end - begin);
}

}
