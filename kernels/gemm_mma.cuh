// The main loop of gemm.cuh on tensor cores: float16, bfloat16, and float32 rounded to TF32; sm_80 and up.
//
// STAGES pairs of tiles in dynamic shared memory: while one is multiplied, cp.async fills the others. A warp computes WARP_M x
// WARP_N outputs as 16 x 8 products (mma.cuh). A tile holds DTYPE and 64 bytes of depth, two steps of 32, as lines of the matrix:
// a 16-byte copy moves a chunk of a line as it is, and zeros where nothing is. Where lines run along the depth ldmatrix reads
// them as they lie, elsewhere it turns them; 32-bit numbers, which it cannot turn, are then read one by one. Single numbers, and
// masked ones, go through registers instead of cp.async.
//
// Limits, with 24 bytes a clock and multiprocessor out of an H200's second-level cache and 128 out of shared memory, in bfloat16:
//   tile        HMMA a warp and step   multiply-adds a byte of shared memory, and of L2   share of the 2048 a clock that L2 allows
//   128 x 128   16                     8.0, 32.0                                           38 %
//   128 x 64    16                     7.1, 21.3                                           25 %
//   64 x 64     8                      5.3, 16.0                                           19 %
//   128 x 32    8                      5.0, 12.8                                           15 %   (32 x 128 alike)
// Prediction, not measured: limited by L2, since cp.async passes the first-level cache by; 35 % of the tensor cores' rate where
// C, K >= 128 fill the device, 23 % at C = K = 64, and the same shares in TF32. mma.sync itself ends at 60 to 75 %. The first
// things to time: copies of x through the first-level cache (cp.async.ca), where the taps of a window meet again; then 256 rows.
//
// A main loop on wgmma and TMA, for sm_90a, would stand beside this file: 64-row sums, tiles in TMA's 128-byte swizzle, its im2col
// mode in place of Loader. None is here, for none has run.
#pragma once

#include "async_copy.cuh"
#include "gemm.cuh"
#include "mma.cuh"

constexpr int CHUNK = 16 / sizeof(DTYPE);        // numbers that move at once
constexpr int STAGE_K = 64 / sizeof(DTYPE);      // the depth of a tile
constexpr int STEP_K = STAGE_K / 2;              // and of a product
constexpr int WARP_M = 8 * THREAD_M, WARP_N = 4 * THREAD_N;  // a product's rows lie with 8 groups of 4 lanes, its columns with those
constexpr int WARPS_N = BLOCK_N / WARP_N;
static_assert(BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0 && WARP_M % 16 == 0 && WARP_N % 32 == 0, "tile");

constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * 64;

// Tiles, and at the end sums on their way out.
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

// A tile of an operand: SIDE rows or columns of the product, and STAGE_K of the depth, as lines of chunks.
//
// What eight lanes touch at once must lie in eight different 16-byte columns of shared memory: the chunks of a line when it is
// stored, one chunk of eight lines when ldmatrix reads. So chunks are permuted, by the line.
template <int SIDE, bool COLUMNS_ARE_DEPTH>
struct Tile {
    static constexpr int BYTES = SIDE * 64;
    static constexpr int LINES = COLUMNS_ARE_DEPTH ? SIDE : STAGE_K;
    static constexpr int PER_LINE = BYTES / 16 / LINES;  // chunks
    static constexpr bool TURNED = !COLUMNS_ARE_DEPTH;
    static_assert(PER_LINE >= 4, "a tile is at least 32 wide");

    static __device__ __forceinline__ int place(int line, int chunk) {
        int mixed = PER_LINE == 4 ? line / 2 % 4 : line % 8;
        if (TURNED && sizeof(DTYPE) == 4) mixed = line % 4 * 2;  // read by 4 lines of 8 numbers
        return (line * PER_LINE + (chunk ^ mixed)) * 16;
    }

    // 16 sides from `side` on by one step of the depth, as an operand of multiply_add. Rows: registers 0 and 2 are the lower and
    // the upper half of the depth for the first 8 sides, 1 and 3 for the others. Columns: 0 and 1, and 2 and 3: a product takes
    // the two side by side, from where they are loaded.
    template <bool ROWS>
    static __device__ __forceinline__ void fragment(uint32 (&to)[4], const unsigned char* tile, int side, int step) {
        const int lane = threadIdx.x % 32;
        const auto eight = [](int matrix) { return ROWS ? matrix % 2 : matrix / 2; };  // of the sides
        const auto half = [](int matrix) { return ROWS ? matrix / 2 : matrix % 2; };   // of the depth
        const int matrix = lane / 8;
        if constexpr (COLUMNS_ARE_DEPTH) {
            load_matrices<false>(to, tile + place(side + eight(matrix) * 8 + lane % 8, step * 2 + half(matrix)));
        } else if constexpr (sizeof(DTYPE) == 2) {
            load_matrices<true>(to, tile + place(step * 16 + half(matrix) * 8 + lane % 8, side / 8 + eight(matrix)));
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int line = step * 8 + half(i) * 4 + lane % 4, at = side + eight(i) * 8 + lane / 4;
                to[i] = *reinterpret_cast<const uint32*>(tile + place(line, at / CHUNK) + at % CHUNK * 4);
            }
        }
        if constexpr (sizeof(DTYPE) == 4)
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = tf32_bits(to[i]);
    }
};

// One thread's part in moving tiles of an operand from global to shared memory: one place of every LINES_A_PASS-th line. With
// SUMS it can also add up the elements of each column, over the depth of the block.
template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS = false>
class Loader {
  public:
    using Tile = ::Tile<SIDE, COLUMNS_ARE_DEPTH>;

  private:
    static constexpr int PASSES = Tile::LINES * Tile::PER_LINE / THREADS, LINES_A_PASS = THREADS / Tile::PER_LINE;
    static constexpr bool COPIES = Matrix::BITS == 0 && VECTOR == CHUNK;
    static constexpr int PARTS = CHUNK / VECTOR;
    static_assert(PASSES * THREADS == Tile::LINES * Tile::PER_LINE && THREADS % Tile::PER_LINE == 0,
                  "every thread moves as many chunks, all in one place of their lines");

    const Matrix& matrix;
    typename Matrix::Line lines[PASSES];     // kept, where columns are the depth
    typename Matrix::Column columns[PARTS];  // kept, where lines are
    Pack<DTYPE, CHUNK> fetched[PASSES];
    uint32 masks[PASSES];
    float sums[CHUNK] = {};
    bool sums_wanted = false;

    static __device__ __forceinline__ int line(int pass) { return int(threadIdx.x) / Tile::PER_LINE + pass * LINES_A_PASS; }
    static __device__ __forceinline__ int chunk() { return int(threadIdx.x) % Tile::PER_LINE; }
    static __device__ __forceinline__ int place(int pass) { return Tile::place(line(pass), chunk()); }

  public:
    // side: the block's first row or column of the product.
    __device__ __forceinline__ Loader(const Matrix& matrix, int32 side) : matrix(matrix) {
        if constexpr (COLUMNS_ARE_DEPTH)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) lines[pass] = matrix.line(side + line(pass));
        else
#pragma unroll
            for (int part = 0; part < PARTS; ++part) columns[part] = matrix.column(side + chunk() * CHUNK + part * VECTOR);
    }

    // Start moving the tile at `depth` to `tile`: as copies, or into registers.
    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if constexpr (!COLUMNS_ARE_DEPTH) lines[pass] = matrix.line(depth + line(pass));
            masks[pass] = 0;
        }
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if constexpr (COLUMNS_ARE_DEPTH) columns[0] = matrix.column(depth + chunk() * CHUNK + part * VECTOR);
            const auto& column = columns[COLUMNS_ARE_DEPTH ? 0 : part];
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                const DTYPE* from = nullptr;
                const bool found = matrix.find(lines[pass], column, from);
                if constexpr (COPIES) {
                    copy_async<16>(tile + place(pass), from, found ? 16 : 0);
                } else {
                    Pack<DTYPE, VECTOR> numbers = {};
                    if (found) {
                        numbers = *reinterpret_cast<const Pack<DTYPE, VECTOR>*>(from);
                        if constexpr (Matrix::BITS > 0) {
                            const uint32 bits = matrix.template mask<VECTOR>(lines[pass], column);
                            masks[pass] |= PARTS == 1 ? bits : (bits & 1) << part * Matrix::BITS;
                        }
                    }
#pragma unroll
                    for (int j = 0; j < VECTOR; ++j) fetched[pass].at[part * VECTOR + j] = numbers.at[j];
                }
            }
        }
    }

    // What went into registers goes to the tile.
    __device__ __forceinline__ void put(unsigned char* tile) {
        if constexpr (!COPIES)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                drop_masked<Matrix::BITS>(fetched[pass], masks[pass]);
                *reinterpret_cast<Pack<DTYPE, CHUNK>*>(tile + place(pass)) = fetched[pass];
            }
    }

    // Ask for the columns' sums, or not.
    __device__ __forceinline__ void want_sums(bool wanted) { sums_wanted = wanted; }

    // Add what this thread brought to a tile that is there to the columns' sums.
    __device__ __forceinline__ void add(const unsigned char* tile) {
        if constexpr (SUMS) {
            static_assert(!COLUMNS_ARE_DEPTH, "a thread keeps to its columns");
            if (!sums_wanted) return;
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                const auto numbers = *reinterpret_cast<const Pack<DTYPE, CHUNK>*>(tile + place(pass));
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) sums[j] += load(numbers.at[j]);
            }
        }
    }

    // The block's sums of its columns, each handed once to take(column, sum): by all threads, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        auto& rows = *reinterpret_cast<float (*)[LINES_A_PASS][SIDE]>(shared_memory());
        __syncthreads();  // it held the sums of the product
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) rows[threadIdx.x / Tile::PER_LINE][chunk() * CHUNK + j] = sums[j];
        __syncthreads();
        for (int side = threadIdx.x; side < SIDE; side += THREADS) {
            float sum = 0;
#pragma unroll 1
            for (int row = 0; row < LINES_A_PASS; ++row) sum += rows[row][side];
            take(side, sum);
        }
    }
};

// One thread's sums, and where in the block's tile they lie.
struct Sums {
    float at[WARP_M / 16][WARP_N / 8][4] = {};

    // Add the products of one pair of tiles.
    template <class TileA, class TileB>
    __device__ __forceinline__ void multiply(const unsigned char* a, const unsigned char* b) {
#pragma unroll
        for (int step = 0; step < STAGE_K / STEP_K; ++step) {
            uint32 rows[WARP_M / 16][4], columns[WARP_N / 16][4];
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i) TileA::template fragment<true>(rows[i], a, warp_row() + i * 16, step);
#pragma unroll
            for (int j = 0; j < WARP_N / 16; ++j) TileB::template fragment<false>(columns[j], b, warp_column() + j * 16, step);
#pragma unroll
            for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
                for (int j = 0; j < WARP_N / 8; ++j)
                    multiply_add<DTYPE>(at[i][j], rows[i], columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]);
        }
    }

    // Where every row's sum begins: at the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int32 column = block.column + warp_column() + j * 8 + threadIdx.x % 4 * 2 + k;
                const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
                for (int i = 0; i < WARP_M / 16; ++i) at[i][j][k] = at[i][j][2 + k] = value;
            }
    }

    // Store through shared memory, 16 rows by 32 columns of a warp at a time, so that neighbouring lanes store neighbours.
    // rows(i): where row i of the product lies in the output, which takes ROWS neighbouring ones at once. A lane's neighbour,
    // lane ^ 1, holds the columns beside its own.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& output, const Block& block, const Rows& rows) const {
        constexpr int N = VECTOR == 8 && To::ROWS == 1 ? 8 : 4, LANES = 32 / N;  // sums side by side, and lanes to a row
        const int lane = threadIdx.x % 32, column = lane % LANES * N;
        float* mine = reinterpret_cast<float*>(shared_memory()) + threadIdx.x / 32 * (16 * 32);
        __syncthreads();  // all have read their last tiles
#pragma unroll
        for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
            for (int first = 0; first < WARP_N; first += 32) {
#pragma unroll
                for (int j = 0; j < 4; ++j)
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
                        const float* pair = &at[i][first / 8 + j][half * 2];
                        *reinterpret_cast<Pack<float, 2>*>(mine + place(lane / 4 + half * 8, j * 8 + lane % 4 * 2)) = {
                            {pair[0], pair[1]}};
                    }
                __syncwarp();
#pragma unroll
                for (int pass = 0; pass < 16 * LANES / 32 / To::ROWS; ++pass) {
                    const int row = (lane / LANES + pass * (32 / LANES)) * To::ROWS;
                    Pack<Real, N> sums[To::ROWS];
#pragma unroll
                    for (int of = 0; of < To::ROWS; ++of) sums[of] = read<N>(mine, row + of, column, lane / LANES % 2);
                    output.template store<VECTOR>(rows(block.row + warp_row() + i * 16 + row),
                                                  block.column + warp_column() + first + column, sums);
                }
                __syncwarp();
            }
    }

  private:
    static __device__ __forceinline__ int warp_row() { return int(threadIdx.x) / 32 / WARPS_N * WARP_M; }
    static __device__ __forceinline__ int warp_column() { return int(threadIdx.x) / 32 % WARPS_N * WARP_N; }

    // Where a sum lies among the 16 x 32 of its warp.
    static __device__ __forceinline__ int place(int row, int column) {
        return row * 32 + ((column / 4 ^ row % 4 * 2) * 4 + column % 4);
    }

    // N of them side by side, four at a time. Of eight the lanes of every other row read the second four first: together they
    // touch every bank once.
    template <int N>
    static __device__ __forceinline__ Pack<Real, N> read(const float* from, int row, int column, int second) {
        if constexpr (N == 4) {
            return *reinterpret_cast<const Pack<Real, 4>*>(from + place(row, column));
        } else {
            const auto one = *reinterpret_cast<const Pack<Real, 4>*>(from + place(row, column + second * 4));
            const auto other = *reinterpret_cast<const Pack<Real, 4>*>(from + place(row, column + 4 - second * 4));
            Pack<Real, 8> both;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                both.at[j] = second ? other.at[j] : one.at[j];
                both.at[j + 4] = second ? one.at[j] : other.at[j];
            }
            return both;
        }
    }
};

// `sums` and the products over a block's part of the depth.
template <class LoaderA, class LoaderB>
__device__ __forceinline__ Sums product(Sums sums, LoaderA& a, LoaderB b, const Block& block) {
    using TileA = typename LoaderA::Tile;
    using TileB = typename LoaderB::Tile;
    unsigned char* const tiles = shared_memory();
    int32 depth = block.begin;  // of the next tiles to fetch
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        unsigned char* tile = tiles + stage * STAGE_BYTES;
        if (depth < block.end) {
            a.fetch(tile, depth);
            b.fetch(tile + TileA::BYTES, depth);
            a.put(tile);
            b.put(tile + TileA::BYTES);
        }
        commit_copies();
        depth += STAGE_K;
    }
    int stage = 0, free = STAGES - 1;  // the tiles to multiply, and those to fill
    for (int32 begin = block.begin; begin < block.end; begin += STAGE_K) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // the next tiles are there, and those multiplied last are free
        unsigned char* tile = tiles + free * STAGE_BYTES;
        const unsigned char* ready = tiles + stage * STAGE_BYTES;
        const bool more = depth < block.end;
        if (more) {
            a.fetch(tile, depth);
            b.fetch(tile + TileA::BYTES, depth);
        }
        commit_copies();
        a.add(ready);
        sums.multiply<TileA, TileB>(ready, ready + TileA::BYTES);
        if (more) {
            a.put(tile);
            b.put(tile + TileA::BYTES);
        }
        depth += STAGE_K;
        free = stage;
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    return sums;
}
