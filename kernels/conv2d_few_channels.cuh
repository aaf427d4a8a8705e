// The main loop of a convolution of few channels in one group, such as a net's first layer: float16, bfloat16 and TF32 on tensor
// cores, float32 by scalar multiply-adds; sm_80 and up.
//
// With few channels the numbers of a window are not runs of memory that can be copied 16 bytes at a time. But the pixels of a
// tile are neighbors, and their windows lie in a few lines of x. A block copies these lines once, with their padding, 16 bytes
// at a time where their length and x's address allow; lines of several images follow one another. In this `Patch` the offset of
// every number is the sum of one offset for its pixel and one for its tap (r, s, channel). The filters stay in shared memory with
// their whole depth. So a block waits twice per tile, for memory and for the other threads, and otherwise multiplies and stores.
//
// Dynamic shared memory: the biases, the taps' offsets, the filters, two patches. The launcher computes its size
// (`few_channels_smem_bytes` of gpuconv/few_channels.py).
#pragma once

#include "async_copy.cuh"
#include "conv2d_matrices.cuh"
#include "mma.cuh"

#ifdef TF32
constexpr bool ON_TENSOR_CORES = true;
#else
constexpr bool ON_TENSOR_CORES = sizeof(DTYPE) == 2;
#endif

constexpr int CHUNK = 16 / sizeof(DTYPE);                    // numbers that move at once
constexpr int STEP_K = ON_TENSOR_CORES ? 2 * CHUNK : 1;      // the depth of a product
static_assert(BLOCK_M == THREADS && BLOCK_N % 32 == 0 && sizeof(Real) == 4, "a warp has 32 pixels and all filters of the tile");

// The part of x that a tile's pixels read.
class Patch {
    const Convolution& conv;
    int32 before, lead;  // chunks of padding to the left of a line, and unused numbers before that padding
    int32 pitch;         // elements from line to line
    int32 pixel;         // the tile's first
    Pixel first;

    // The number of lines from the first pixel's window down to that of another pixel.
    __device__ __forceinline__ int32 below(const Pixel& pixel) const {
        return (pixel.n - first.n) * int32(conv.image_lines.divisor) + (pixel.p - first.p) * int32(conv.stride_h.divisor);
    }

  public:
    __device__ __forceinline__ Patch(const Convolution& conv, int32 pixel) : conv(conv), pixel(pixel), first(conv, pixel) {
        const int32 across = (conv.q - 1) * int32(conv.stride_w.divisor) + (conv.s - 1) * conv.dilation_w + 1;
        const int32 left = conv.left * conv.c;
        before = left / CHUNK + (left % CHUNK != 0);
        lead = before * CHUNK - left;
        pitch = (lead + across * conv.c + CHUNK - 1) / CHUNK * CHUNK;
    }

    // Copies to `cells` what the windows of BLOCK_M pixels read; by cp.async if the lines of x are aligned.
    __device__ __forceinline__ void fetch(DTYPE* cells, const DTYPE* x) const {
        const Pixel last(conv, min(pixel + BLOCK_M, conv.n * conv.p * conv.q) - 1);
        const int32 lines = below(last) + (conv.r - 1) * conv.dilation_h + 1, line_of_x = conv.w * conv.c;
        const bool aligned = line_of_x % CHUNK == 0 && reinterpret_cast<uint64>(x) % 16 == 0;
#pragma unroll 1
        for (int32 line = threadIdx.x / 32; line < lines; line += THREADS / 32) {
            int32 h = first.p * int32(conv.stride_h.divisor) + line;
            const int32 image = conv.image_lines.divide(h);  // h becomes the remainder, the line in the padded image
            h -= conv.top;
            const bool inside = uint32(h) < uint32(conv.h);
            const DTYPE* from = x + (int64(first.n + image) * conv.h + h) * line_of_x;
#pragma unroll 1
            for (int32 at = threadIdx.x % 32 * CHUNK; at < pitch; at += 32 * CHUNK) {
                const int32 begin = at - before * CHUNK;
                if (aligned) {
                    const bool found = inside && uint32(begin) < uint32(line_of_x);
                    copy_async<16>(cells + line * pitch + at, found ? from + begin : nullptr, found ? 16 : 0);
                    continue;
                }
                Pack<DTYPE, CHUNK> numbers = {};
#pragma unroll
                for (int j = 0; j < CHUNK; ++j)
                    if (inside && uint32(begin + j) < uint32(line_of_x)) numbers.at[j] = from[begin + j];
                *reinterpret_cast<Pack<DTYPE, CHUNK>*>(cells + line * pitch + at) = numbers;
            }
        }
        commit_copies();
    }

    // An upper bound of a patch's size, in numbers.
    __device__ __forceinline__ int32 size() const { return conv.patch_lines * pitch; }

    // Lists the offset of each of `depth` taps (r, s, channel) from the window's first tap; zero past the last tap.
    __device__ __forceinline__ void list_taps(int32* offsets, int32 taps, int32 depth) const {
#pragma unroll 1
        for (int32 tap = threadIdx.x; tap < depth; tap += THREADS) {
            int32 channel = tap, s = conv.channels.divide(channel);  // the remainders stay in `channel` and `s`
            const int32 r = conv.taps_across.divide(s);
            offsets[tap] = tap < taps ? r * conv.dilation_h * pitch + s * conv.dilation_w * conv.c + channel : 0;
        }
    }

    // Finds the windows of PIXELS pixels of the tile, starting at `begin`, a multiple of PIXELS. Past the last pixel the address is
    // arbitrary, because these sums are dropped.
    template <int PIXELS>
    __device__ __forceinline__ void find(const DTYPE* (&windows)[PIXELS], const DTYPE* cells, int32 begin) const {
        const int32 remaining = conv.n * conv.p * conv.q - (pixel + begin);
        Pixel at(conv, pixel + begin);
#pragma unroll
        for (int i = 0; i < PIXELS; ++i, at.step(conv))
            windows[i] = i < remaining ? cells + (below(at) * pitch + lead + at.q * int32(conv.stride_w.divisor) * conv.c) : cells;
    }
};

// The block's filters in the order in which they are read, with zeros past the last filter and past the last tap. For scalar
// multiply-adds a line holds one tap. For tensor cores a column of the product has two chunks per step, one for each half of the
// step's depth. In every other group of four columns they are exchanged, so ldmatrix reads eight chunks without bank conflicts.
struct Filters {
    static constexpr int TAP_PITCH = BLOCK_N + 8;

    float* biases;  // a lane reads every fourth; zeros without a bias
    DTYPE* cells;
    int32 depth;  // a multiple of STEP_K

    // A lane has two columns of each of four products; these are eight neighboring filters.
    static __device__ __forceinline__ int32 filter_of(int32 column) {
        return column / 32 * 32 + column % 8 / 2 * 8 + column / 8 % 4 * 2 + column % 2;
    }

    __device__ __forceinline__ int32 size() const { return depth * (ON_TENSOR_CORES ? BLOCK_N : TAP_PITCH); }

    // The chunk of a column that holds one half of the first step's depth.
    __device__ __forceinline__ DTYPE* chunk(int32 column, int32 half) const {
        return cells + (column * 2 + (half ^ (column / 4 % 2))) * CHUNK;
    }

    // w, bias: (filters, taps) and (filters), from the block's first filter.
    __device__ __forceinline__ void read(const DTYPE* w, const DTYPE* bias, int32 filters, int32 taps) const {
        if (const int32 i = threadIdx.x, filter = i / 32 * 32 + i % 4 * 8 + i / 4 % 8; i < BLOCK_N)
            biases[i] = bias && filter < filters ? load(bias[filter]) : 0;
#pragma unroll 1
        for (int32 column = threadIdx.x / 4; column < BLOCK_N; column += THREADS / 4) {
            const int32 filter = ON_TENSOR_CORES ? filter_of(column) : column;
            for (int32 tap = threadIdx.x % 4; tap < depth; tap += 4) {
                DTYPE number = round_to<DTYPE>(Real(0));
                if (tap < taps && filter < filters) number = round_to<DTYPE>(factor(w[int64(filter) * taps + tap]));
                if (ON_TENSOR_CORES) chunk(column, tap / CHUNK % 2)[tap / STEP_K * STEP_K * BLOCK_N + tap % CHUNK] = number;
                else cells[tap * TAP_PITCH + filter] = number;
            }
        }
    }
};

// One thread's sums: four neighboring pixels by eight neighboring filters out of every 32.
struct Accumulators {
    static constexpr int PIXELS = 4, FILTERS = BLOCK_N / 4;

    float at[PIXELS / 2][FILTERS / 2][4];  // in multiply_add's layout: two pixels by two filters

    __device__ __forceinline__ float& of(int pixel, int filter) {
        return at[pixel / 2][filter / 2][pixel % 2 * 2 + filter % 2];
    }
    __device__ __forceinline__ float of(int pixel, int filter) const {
        return at[pixel / 2][filter / 2][pixel % 2 * 2 + filter % 2];
    }
    // The thread's first pixel and its filters, in the tile.
    static __device__ __forceinline__ int32 pixel() { return threadIdx.x / 4 * PIXELS; }
    static __device__ __forceinline__ int32 filter(int i) { return i / 8 * 32 + threadIdx.x % 4 * 8 + i % 8; }
    // The barrier of the threads that have sums.
    static __device__ __forceinline__ void sync() { __syncthreads(); }

    // Initializes every sum with the bias of its filter.
    __device__ __forceinline__ Accumulators(const Filters& filters) {
#pragma unroll
        for (int i = 0; i < FILTERS; ++i) {
            const float bias = filters.biases[i * 4 + threadIdx.x % 4];
#pragma unroll
            for (int j = 0; j < PIXELS; ++j) of(j, i) = bias;
        }
    }

    // Adds the products over the depth. windows: of the thread's pixels. offsets: of the taps in a window.
    __device__ __forceinline__ void
    multiply(const DTYPE* const (&windows)[PIXELS], const int32* offsets, const Filters& filters, int32 taps) {
#pragma unroll 1
        for (int32 tap = 0; tap < filters.depth; tap += STEP_K) {
            if constexpr (ON_TENSOR_CORES) multiply_on_tensor_cores(windows, offsets, filters, tap, taps);
            else multiply_one_by_one(windows, offsets[tap], filters.cells + tap * Filters::TAP_PITCH);
        }
    }

    // rows(i): the output row of the product's row i. The epilogue takes ROWS neighboring rows at once.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& epilogue, const Block& block, const Rows& rows) const {
#pragma unroll
        for (int first = 0; first < PIXELS; first += To::ROWS)
#pragma unroll
            for (int eight = 0; eight < FILTERS; eight += 8) {
                Pack<Real, 8> sums[To::ROWS];
#pragma unroll
                for (int i = 0; i < To::ROWS * 8; ++i) sums[i / 8].at[i % 8] = of(first + i / 8, eight + i % 8);
                epilogue.template store<VECTOR>(rows(block.row + pixel() + first), block.column + filter(eight), sums);
            }
    }

  private:
    __device__ __forceinline__ void multiply_on_tensor_cores(const DTYPE* const (&windows)[PIXELS], const int32* offsets,
                                                             const Filters& filters, int32 tap, int32 taps) {
        constexpr int PER_REGISTER = 4 / sizeof(DTYPE);  // taps in a register
        const int lane = threadIdx.x % 32;
        uint32 x[PIXELS / 2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int32 first_tap = tap + half * CHUNK + lane % 4 * PER_REGISTER;
            const auto from = *reinterpret_cast<const Pack<int32, PER_REGISTER>*>(offsets + first_tap);
            // Past the last tap the filters are zero, but x may hold NaN or infinity there.
            const uint32 valid_bits = first_tap + PER_REGISTER <= taps ? 0xffffffff : first_tap < taps ? 0xffff : 0;
#pragma unroll
            for (int i = 0; i < PIXELS; ++i) {
                uint32 bits;
                if constexpr (PER_REGISTER == 2)
                    bits = *reinterpret_cast<const uint16*>(windows[i] + from.at[0]) |
                           uint32(*reinterpret_cast<const uint16*>(windows[i] + from.at[PER_REGISTER - 1])) << 16;
                else bits = tf32_bits(*reinterpret_cast<const uint32*>(windows[i] + from.at[0]));
                x[i / 2][half * 2 + i % 2] = bits & valid_bits;
            }
        }
#pragma unroll
        for (int column = 0; column < BLOCK_N; column += 16) {
            uint32 w[4];
            // w[0], w[1]: the halves of the depth for the first eight columns; w[2], w[3]: for the next eight.
            load_matrices<false>(w, filters.chunk(lane / 16 * 8 + lane % 8, lane / 8 % 2) + tap * BLOCK_N + column * STEP_K);
#pragma unroll
            for (int i = 0; i < PIXELS / 2; ++i) {
                multiply_add<DTYPE>(at[i][column / 8], x[i], w[0], w[1]);
                multiply_add<DTYPE>(at[i][column / 8 + 1], x[i], w[2], w[3]);
            }
        }
    }

    __device__ __forceinline__ void
    multiply_one_by_one(const DTYPE* const (&windows)[PIXELS], int32 offset, const DTYPE* filters) {
#pragma unroll
        for (int four = 0; four < FILTERS; four += 4) {
            const auto w = *reinterpret_cast<const Pack<DTYPE, 4>*>(filters + filter(four));
#pragma unroll
            for (int i = 0; i < PIXELS * 4; ++i) of(i / 4, four + i % 4) += load(windows[i / 4][offset]) * load(w.at[i % 4]);
        }
    }
};
