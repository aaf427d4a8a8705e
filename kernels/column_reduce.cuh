// Reductions over the rows of an (M, C) matrix, channels innermost, and maps with one set of coefficients per channel.
//
// The matrix is walked as a flat array. In each step a block's threads read neighboring packs of WIDTH numbers; then they advance
// by a stride that is a multiple of C. So in all packs of a thread, number j lies in the same column, for any C. If
// the columns do not fit into a block, they are divided into tiles, one for each block along grid y. The steps are divided into
// chunks, one for each block along grid x. The division, and so the bits, depend only on the shape and WIDTH.
//
//   walk<GROUP>(columns, body)     calls body for every pack of the block, with GROUP loads in flight
//   column_reduce(...)             walks, then adds the block's rows pairwise in shared memory: a State for each chunk and column
//   column_finish(...)             a second launch, if there are several chunks: adds their States in a fixed order
//   merge_tiles(...)               a launch before column_finish, if a convolution has written too many States
//
// A State is what is known of the values seen so far, such as their sum. State{}, all zeros, has seen none. merge(other) adds
// another State; add(states, values) adds ROWS rows to the States of a thread's columns.
//
// Macros: DTYPE; WIDTH 1 or 16 / sizeof(DTYPE). The launcher is ops/column_reduce.py; blocks have at most 256 threads.
#pragma once

#include "types.cuh"

using Real = accumulator<DTYPE>;
using Numbers = Pack<DTYPE, WIDTH>;

constexpr int THREADS = 256;
constexpr int FINISH_COLUMNS = 8;  // columns of a block of column_finish

struct Columns {
    int64 size;      // M * C
    int64 stride;    // packs between two steps of a thread
    int64 chunk;     // steps per block
    int32 channels;  // C
    int32 tile;      // columns per block
    int32 rows;      // rows of a block's step
};

// The calling thread's pack in step 0, if it has one.
struct Position {
    int64 first;
    bool inside;

    __device__ explicit Position(const Columns& columns) {
        first = int64(blockIdx.y) * (columns.tile / WIDTH) + threadIdx.x;
        inside = int32(threadIdx.x) * WIDTH < columns.rows * columns.tile && first < columns.stride;
    }
    // Computes the column of each number of the thread's packs.
    __device__ void find_columns(int32 (&column)[WIDTH], int32 channels) const {
        column[0] = int32(first * WIDTH % channels);
#pragma unroll
        for (int j = 1; j < WIDTH; ++j) column[j] = column[j - 1] + 1 < channels ? column[j - 1] + 1 : 0;
    }
};

// The packs of the calling thread in an array whose rows are `pitch` numbers apart, as in a slice of a wider volume's channels.
// If the pitch is more than C, WIDTH divides both.
struct PitchedPacks {
    int64 first, stride;

    __device__ PitchedPacks(const Columns& columns, int64 pitch) {
        const int64 gap = pitch - columns.channels, number = Position(columns).first * WIDTH;
        first = (number + (gap ? number / columns.channels * gap : 0)) / WIDTH;
        stride = columns.stride + columns.rows * gap / WIDTH;
    }
    __device__ __forceinline__ int64 at(int64 step) const { return first + step * stride; }
};

// Calls body.packs<GROUP>(pack, stride, step) for every GROUP steps of the thread, then body.packs<1>(...) for each step that is
// left. `step` is the first step of the call, and `pack` its pack; that of the next step is pack + stride, ... If the array ends
// with an incomplete pack, calls body.single(number, index) for each number of that pack. index: where it lies in the pack.
template <int GROUP, class Body>
__device__ __forceinline__ void walk(const Columns& columns, Body& body) {
    const Position position(columns);
    if (!position.inside) return;
    const int64 packs = columns.size / WIDTH;
    const int64 full = position.first < packs ? (packs - 1 - position.first) / columns.stride + 1 : 0;  // steps with complete packs
    int64 step = int64(blockIdx.x) * columns.chunk;
    const int64 end = step + columns.chunk, last = min(end, full);
#pragma unroll 1
    for (; step + GROUP <= last; step += GROUP)
        body.template packs<GROUP>(position.first + step * columns.stride, columns.stride, step);
#pragma unroll 1
    for (; step < last; ++step) body.template packs<1>(position.first + step * columns.stride, columns.stride, step);
    if (WIDTH > 1 && full < end)
        for (int j = 0; j < WIDTH; ++j) {
            const int64 number = (position.first + full * columns.stride) * WIDTH + j;
            if (number < columns.size) body.single(number, j);
        }
}

// Adds the rows of cells[row][column] pairwise, then calls take(column, state) for each column below `count`.
template <class State, class Take>
__device__ __forceinline__ void merge_rows(State* cells, int32 rows, int32 tile, int32 count, Take take) {
    while (rows > 1) {
        const int32 half = (rows + 1) / 2;
        __syncthreads();
        for (int32 i = threadIdx.x; i < (rows - half) * tile; i += blockDim.x) cells[i].merge(cells[i + half * tile]);
        rows = half;
    }
    __syncthreads();
    for (int32 column = threadIdx.x; column < count; column += blockDim.x) take(column, cells[column]);
}

// Whether a Source has write(pack, packs), which receives what read() returned and may change it before value() reads it.
template <class Source> constexpr bool WRITES = false;

template <class State, class Source>
struct Accumulate {
    const Source& source;
    State states[WIDTH];

    template <int ROWS>
    __device__ __forceinline__ void packs(int64 pack, int64 stride, int64 step) {
        typename Source::Packs rows[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) rows[i] = source.read(pack + i * stride, step + i);
        if constexpr (WRITES<Source>)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) source.write(pack + i * stride, rows[i]);
        typename State::Value values[WIDTH][ROWS];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) values[j][i] = source.value(rows[i], j);
        State::add(states, values);
    }
    __device__ void single(int64 number, int index) {
        const State one = State::of(source.single(number, index));
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)  // a variable index would move the states to local memory
            if (j == index) states[j].merge(one);
    }
};

// Calls finish(column, state) if there is one chunk; else writes partials[chunk][column].
template <class State, class Source, class Finish>
__device__ __forceinline__ void column_reduce(State* partials, const Columns& columns, const Source& source, Finish finish) {
    __shared__ State cells[THREADS * WIDTH];
    Accumulate<State, Source> sum{source, {}};
    walk<sizeof(DTYPE) == 8 ? 2 : 4>(columns, sum);  // with 4, doubles would spill
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) cells[threadIdx.x * WIDTH + j] = sum.states[j];
    const int32 begin = int32(blockIdx.y) * columns.tile;
    merge_rows(cells, columns.rows, columns.tile, min(columns.tile, columns.channels - begin),
               [&](int32 column, const State& state) {
                   if (gridDim.x == 1) finish(begin + column, state);
                   else partials[int64(blockIdx.x) * columns.channels + begin + column] = state;
               });
}

template <class State, class Finish>
__device__ __forceinline__ void column_finish(const State* partials, int32 chunks, int32 channels, Finish finish) {
    constexpr int rows = THREADS / FINISH_COLUMNS;
    __shared__ State cells[THREADS];
    const int32 begin = int32(blockIdx.x) * FINISH_COLUMNS, column = begin + threadIdx.x % FINISH_COLUMNS;
    State state = {};
    if (column < channels)
#pragma unroll 4
        for (int32 chunk = threadIdx.x / FINISH_COLUMNS; chunk < chunks; chunk += rows)
            state.merge(partials[int64(chunk) * channels + column]);
    cells[threadIdx.x] = state;
    merge_rows(cells, rows, FINISH_COLUMNS, min(FINISH_COLUMNS, channels - begin),
               [&](int32 column, const State& state) { finish(begin + column, state); });
}

// Reduces a convolution's partial results, one State for each tile and channel: each block adds up those of `share` tiles.
template <class State>
__device__ __forceinline__ void merge_tiles(State* fewer, const State* partials, int32 chunks, int32 share, int32 channels) {
    const int32 first = int32(blockIdx.y) * share;
    column_finish(partials + int64(first) * channels, min(share, chunks - first), channels,
                  [&](int32 c, const State& state) { fewer[int64(blockIdx.y) * channels + c] = state; });
}
