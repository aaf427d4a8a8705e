// Reductions over the rows of an (M, C) matrix, channels innermost, and maps whose coefficients belong to a channel.
//
// The matrix is walked as the flat array it is. A block's threads stand side by side, a pack of WIDTH numbers each, and advance
// by a stride that is a multiple of C: so neighbours read neighbouring addresses, and each lane of a thread stays in one
// column, for C = 1, 3, 12 as for C = 64. Where the columns do not fit beside each other, blocks share them out in tiles (grid
// y). Along the rows, blocks take chunks of steps (grid x). How many depends on the shape alone, so that the bits do too.
//
//   walk(columns, body)            shows body every pack of the block, GROUP loads in flight
//   column_reduce(...)             walk, then the block's rows pairwise in shared memory; a State a chunk and column
//   column_finish(...)             adds the chunks' States, in a fixed order: a second launch, none for a single chunk
//
// A State is an aggregate; all zeros stand for no value. merge(other) adds another one; add(lanes, values) adds ROWS rows
// to the states of a thread's lanes.
//
// Macros: DTYPE; WIDTH 1 or 16 / sizeof(DTYPE). Launch: backends/cuda/ops/column_reduce.py, blocks of at most 256 threads.
#pragma once

#include "types.cuh"

using Real = accumulator<DTYPE>;
using Numbers = Pack<DTYPE, WIDTH>;

constexpr int kThreads = 256;
constexpr int kFinishColumns = 8;  // of a block that adds partial results

struct Columns {
    int64 size;      // M * C
    int64 stride;    // packs from one step of a thread to its next
    int64 chunk;     // steps a block
    int32 channels;  // C
    int32 tile;      // columns a block
    int32 rows;      // rows a step of a block
};

// The calling thread's pack in step 0, and whether it has one.
struct Position {
    int64 first;
    bool inside;

    __device__ explicit Position(const Columns& columns) {
        first = int64(blockIdx.y) * (columns.tile / WIDTH) + threadIdx.x;
        inside = int32(threadIdx.x) * WIDTH < columns.rows * columns.tile && first < columns.stride;
    }
    // The column of each lane.
    __device__ void columns_of_lanes(int32 (&column)[WIDTH], int32 channels) const {
        column[0] = int32(first * WIDTH % channels);
#pragma unroll
        for (int j = 1; j < WIDTH; ++j) column[j] = column[j - 1] + 1 < channels ? column[j - 1] + 1 : 0;
    }
};

// body.packs<ROWS>(pack, stride): the packs pack, pack + stride, ...; body.single(number, lane): one number of the array's
// ragged end.
template <int GROUP, class Body>
__device__ __forceinline__ void walk(const Columns& columns, Body& body) {
    const Position position(columns);
    if (!position.inside) return;
    const int64 packs = columns.size / WIDTH;
    const int64 full = position.first < packs ? (packs - 1 - position.first) / columns.stride + 1 : 0;  // steps with whole packs
    int64 step = int64(blockIdx.x) * columns.chunk;
    const int64 end = step + columns.chunk, last = min(end, full);
#pragma unroll 1
    for (; step + GROUP <= last; step += GROUP)
        body.template packs<GROUP>(position.first + step * columns.stride, columns.stride);
#pragma unroll 1
    for (; step < last; ++step) body.template packs<1>(position.first + step * columns.stride, columns.stride);
    if (WIDTH > 1 && full < end)
        for (int j = 0; j < WIDTH; ++j) {
            const int64 number = (position.first + full * columns.stride) * WIDTH + j;
            if (number < columns.size) body.single(number, j);
        }
}

// cells[row][column] of the block: rows meet in pairs, then take(column, state) for each column below `count`.
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

template <class State, class Source>
struct Accumulate {
    const Source& source;
    State lanes[WIDTH];

    template <int ROWS>
    __device__ __forceinline__ void packs(int64 pack, int64 stride) {
        typename Source::Packs rows[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) rows[i] = source.read(pack + i * stride);
        typename State::Value values[WIDTH][ROWS];
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
#pragma unroll
            for (int i = 0; i < ROWS; ++i) values[j][i] = source.value(rows[i], j);
        State::add(lanes, values);
    }
    __device__ void single(int64 number, int lane) {
        const State one = State::of(source.single(number, lane));
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)  // a variable index would push the states out of the registers
            if (j == lane) lanes[j].merge(one);
    }
};

// finish(column, state) receives the whole column where one chunk covers it; else partials[chunk][column] is written.
template <class State, class Source, class Finish>
__device__ __forceinline__ void column_reduce(State* partials, const Columns& columns, const Source& source, Finish finish) {
    __shared__ State cells[kThreads * WIDTH];
    Accumulate<State, Source> sum{source, {}};
    walk<sizeof(DTYPE) == 8 ? 2 : 4>(columns, sum);  // 4 would spill a few doubles
    if (Position(columns).inside)
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) cells[threadIdx.x * WIDTH + j] = sum.lanes[j];
    const int32 begin = int32(blockIdx.y) * columns.tile;
    merge_rows(cells, columns.rows, columns.tile, min(columns.tile, columns.channels - begin),
               [&](int32 column, const State& state) {
                   if (gridDim.x == 1) finish(begin + column, state);
                   else partials[int64(blockIdx.x) * columns.channels + begin + column] = state;
               });
}

template <class State, class Finish>
__device__ __forceinline__ void column_finish(const State* partials, int32 chunks, int32 channels, Finish finish) {
    constexpr int rows = kThreads / kFinishColumns;
    __shared__ State cells[kThreads];
    const int32 begin = int32(blockIdx.x) * kFinishColumns, column = begin + threadIdx.x % kFinishColumns;
    State state = {};
    if (column < channels)
#pragma unroll 4
        for (int32 chunk = threadIdx.x / kFinishColumns; chunk < chunks; chunk += rows)
            state.merge(partials[int64(chunk) * channels + column]);
    cells[threadIdx.x] = state;
    merge_rows(cells, rows, kFinishColumns, min(kFinishColumns, channels - begin),
               [&](int32 column, const State& state) { finish(begin + column, state); });
}
