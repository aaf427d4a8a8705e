// Tile iterators of the main loop on tensor cores (gemm_mma.cuh): they copy tiles of an operand into shared memory. Each thread
// has its own object, which copies that thread's part.
//
//   TileIterator<...> a(matrix, side);  // side: the block's first row or column of the product
//   a.seek(depth);                      // called by all copying threads: go to the first tile, at `depth`
//   a.fetch(tile, depth);               // start to copy the tile at `depth`
//   a.advance(depth);                   // go to the next tile, at `depth`, STAGE_K further
//   a.put(tile);                        // store what fetch loaded into registers
//
// If iterators fill a table ahead (FILLS_AHEAD), the main loop has a barrier between two fetches. A thread copies one chunk of
// every LINES_A_PASS-th line of a tile. Where a line's chunks do not divide the threads, as with 24, the last threads copy nothing.
//
// The main loop includes mma_tile.cuh or wgmma_tile.cuh first. It defines `Tile`, CHUNK, STAGE_K, sums_memory() and the threads
// that copy: COPIERS is their number, copier() the calling thread's index among them, sync_copiers() their barrier. Only these
// threads have iterators. The iterators of the next tile of the product use the same tables, so the barrier must precede them.
// STORES_LATER: whether the threads multiply between fetch and put, so that numbers that move one at a time wait in registers.
//
// Apart from its products the main loop mostly computes addresses. So an iterator computes its position once and then increments
// it from tile to tile. How depends on the matrix:
//   STRAIGHT  a plain matrix: a pointer for each line, or one pointer that grows by the same step with every tile
//   TAPS      the depth runs over the taps of a filter. A table in shared memory holds what each tap adds to an address. In a
//             matrix of windows the columns are the depth: for each line the iterator keeps a pointer, and a mask of the filter's
//             rows and columns that lie inside the tensor. In a matrix of filters the lines are the depth: it keeps one pointer
//   PIXELS    the depth runs over pixels. Finding a pixel's window takes divisions, so a table in shared memory holds the windows
//             of the next tile; STAGE_K threads compute one each while the previous tile is being copied
//   SEARCH    the address of every chunk is computed from its line and column: where numbers move one at a time, and for filters
//             with more taps than the table holds (TAP_TABLE 0)
// Numbers that move one at a time go through registers; chunks are copied by cp.async.
#pragma once

#include "async_copy.cuh"
#include "gemm.cuh"

// Entries of a table of taps. The launcher gives a filter a table (`fits_tap_table` in conv_struct.py) if it has at most 72 taps
// and at most 31 rows and columns together, since one bit of a mask must stay 0, and if offsets of taps fit into 32 bits. Iterators
// also look up taps past the filter, up to the end of the tile after the last one. They are fewer than the chunks of two tiles
// along the depth.
constexpr int MOST_TAPS = 72 + 2 * STAGE_K / CHUNK;

// The source of a chunk. If not found, the chunk is zeros and `from` is any address.
struct Source {
    const DTYPE* from;
    bool found;
};

__device__ __forceinline__ constexpr int power_of_two_within(int n) { return n < 2 ? 1 : 2 * power_of_two_within(n / 2); }

// How a block's threads copy a tile. Iterator: derives from this and finds chunks.
template <class Iterator, class Matrix, int SIDE, bool COLUMNS_ARE_DEPTH, bool SUMS>
class TileMover {
  public:
    using Tile = ::Tile<SIDE, COLUMNS_ARE_DEPTH>;
    static constexpr bool FILLS_AHEAD = false;  // whether fetch reads what the previous advance wrote
    static constexpr bool SEARCHES = false;
    static constexpr bool SUMMING = SUMS;

    // Finds all chunks before it copies the first.
    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (!copies()) return;
        Source chunks[PASSES];
        static_cast<const Iterator*>(this)->find(chunks, depth);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto [from, found] = chunks[pass];
            copy_async_or_zeros<16>(tile + chunk_offset(pass), from, found);
        }
    }

    __device__ __forceinline__ void put(unsigned char*) {}

    // Until this is called with true, `add` does nothing.
    __device__ __forceinline__ void enable_sums(bool enabled) { sums_enabled = enabled; }

    // Updates the sums of columns from the chunks of a finished tile that this thread copied.
    __device__ __forceinline__ void add(const unsigned char* tile) {
        if constexpr (SUMS) {
            static_assert(!COLUMNS_ARE_DEPTH && USED == COPIERS, "a thread keeps to its columns, and all have some");
            if (!sums_enabled) return;
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                const auto numbers = *reinterpret_cast<const Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass));
#pragma unroll
                for (int j = 0; j < CHUNK; ++j) sums[j] += load(numbers.at[j]);
            }
        }
    }

    // Calls take(column, sum) once for each of the block's columns. All copying threads call this, after the last add.
    template <class Take>
    __device__ __forceinline__ void take_sums(Take take) const {
        auto& rows = *reinterpret_cast<float (*)[LINES_A_PASS][SIDE]>(sums_memory());
        sync_copiers();  // the memory held tiles, accumulators or earlier sums
#pragma unroll
        for (int j = 0; j < CHUNK; ++j) rows[copier() / Tile::PER_LINE][chunk() * CHUNK + j] = sums[j];
        sync_copiers();
        for (int side = copier(); side < SIDE; side += COPIERS) {
            float sum = 0;
#pragma unroll 1
            for (int row = 0; row < LINES_A_PASS; ++row) sum += rows[row][side];
            take(side, sum);
        }
    }

    static constexpr int LINES_A_PASS = power_of_two_within(COPIERS / Tile::PER_LINE), PASSES = Tile::LINES / LINES_A_PASS;
    static constexpr int USED = LINES_A_PASS * Tile::PER_LINE;  // threads that copy

    static __device__ __forceinline__ bool copies() { return USED == COPIERS || copier() < USED; }

    // The line and the chunk of the tile that this thread copies in a pass.
    static __device__ __forceinline__ int line(int pass) { return copier() / Tile::PER_LINE + pass * LINES_A_PASS; }
    static __device__ __forceinline__ int chunk() { return copier() % Tile::PER_LINE; }

  protected:
    static_assert(PASSES * LINES_A_PASS == Tile::LINES,
                  "threads that copy have the same number of chunks, a thread always the same chunk of a line");
    static constexpr int PASSES_A_PERIOD = LINES_A_PASS < Tile::PERIOD ? Tile::PERIOD / LINES_A_PASS : 1;
    static_assert(PASSES_A_PERIOD * LINES_A_PASS % Tile::PERIOD == 0, "every period's lines have the same swizzles");

    static __device__ __forceinline__ int chunk_offset(int pass) {
        const int first = pass % PASSES_A_PERIOD;
        return Tile::swizzle(line(first), chunk()) + (pass - first) * LINES_A_PASS * Tile::LINE_BYTES;
    }

  private:
    float sums[CHUNK] = {};
    bool sums_enabled = false;
};

template <Walk WALK, class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator;

// The walk along the depth that suits a matrix, and the one taken: SEARCH if numbers move one at a time or taps have no table.
template <class Matrix, bool COLUMNS_ARE_DEPTH>
constexpr Walk natural_walk = COLUMNS_ARE_DEPTH ? Matrix::ALONG_COLUMNS : Matrix::ALONG_LINES;
template <class Matrix, int VECTOR, bool COLUMNS_ARE_DEPTH>
constexpr Walk walk =
    VECTOR < CHUNK || (natural_walk<Matrix, COLUMNS_ARE_DEPTH> == Walk::TAPS && !TAP_TABLE)
        ? Walk::SEARCH
        : natural_walk<Matrix, COLUMNS_ARE_DEPTH>;

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS = false>
using TileIterator = WalkIterator<walk<Matrix, VECTOR, COLUMNS_ARE_DEPTH>, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>;

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator<Walk::STRAIGHT, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>
    : public TileMover<WalkIterator<Walk::STRAIGHT, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>, Matrix, SIDE,
                         COLUMNS_ARE_DEPTH, SUMS> {
    using Mover = TileMover<WalkIterator, Matrix, SIDE, COLUMNS_ARE_DEPTH, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk, Mover::LINES_A_PASS;

    // Sources. If columns are the depth: those of each pass, in a tile at depth 0; else that of the first pass, in the next tile to
    // fetch. `end`: the depth from which there are no more elements.
    static constexpr int KEPT = COLUMNS_ARE_DEPTH ? PASSES : 1;

    const Matrix& matrix;
    int32 side;
    const DTYPE* from[KEPT];
    int32 end[KEPT];

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix), side(side) {}

    __device__ __forceinline__ void seek(int32 depth) {
        const int32 first = COLUMNS_ARE_DEPTH ? side : depth, column = chunk() * CHUNK + (COLUMNS_ARE_DEPTH ? 0 : side);
#pragma unroll
        for (int pass = 0; pass < KEPT; ++pass) {
            const int32 row = first + line(pass);
            from[pass] = matrix.base + (int64(row) * matrix.pitch + column);
            if constexpr (COLUMNS_ARE_DEPTH) end[pass] = row < matrix.lines ? matrix.columns - column : 0;
            else end[pass] = column < matrix.columns ? matrix.lines - line(pass) : 0;
        }
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32 depth) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const int32 lines = pass * LINES_A_PASS;
            if constexpr (COLUMNS_ARE_DEPTH) chunks[pass] = {from[pass] + depth, depth < end[pass]};
            else chunks[pass] = {from[0] + int64(lines) * matrix.pitch, depth + lines < end[0]};
        }
    }

    __device__ __forceinline__ void advance(int32) {
        if constexpr (!COLUMNS_ARE_DEPTH) from[0] += int64(STAGE_K) * matrix.pitch;
    }
};

// A position in the depth of TAPS: a tap, and a part of it. A part is UNIT channels or filters.
template <int UNIT>
struct TapWalk {
    int32 tap, part;
    int32 all, taps_a_tile, parts_a_tile;  // the parts of a tap; the taps and parts that one tile adds

    __device__ __forceinline__ void seek(const FastDivmod& per_tap, int32 depth) {
        int32 rest = STAGE_K;
        all = int32(per_tap.divisor) / UNIT;
        taps_a_tile = per_tap.divide(rest);
        parts_a_tile = rest / UNIT;
        tap = per_tap.divide(depth);
        part = depth / UNIT;
    }
    __device__ __forceinline__ void advance() {
        part += parts_a_tile;
        const bool next = part >= all;
        if (next) part -= all;
        tap += taps_a_tile + next;
    }
};

// TAPS along columns: windows.
template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, true, SUMS>
    : public TileMover<WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, true, SUMS>, Matrix, SIDE, true, SUMS> {
    using Mover = TileMover<WalkIterator, Matrix, SIDE, true, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    struct alignas(8) Tap {
        int32 chunks;  // from the first tap's element to this tap's
        uint32 bits;   // of its row and its column in the filter; the tap is inside if both are set in a line's mask
    };

    const Matrix& matrix;
    const DTYPE* from[PASSES];  // the first tap's element; any address if no tap is inside
    uint32 inside[PASSES];      // masks of the filter's rows and columns inside the tensor
    TapWalk<CHUNK> at;
    Tap tap;

    static __device__ __forceinline__ Tap (&taps())[MOST_TAPS] {
        __shared__ alignas(8) Tap table[MOST_TAPS];
        return table;
    }

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        const int32 down = matrix.taps_down(), across = matrix.taps_across();
        for (int32 i = copier(); i < MOST_TAPS; i += COPIERS) {
            const int32 r = i / max(1, across), s = i - r * across;
            if (i < down * across) taps()[i] = {matrix.step(r, s) * matrix.pitch() / CHUNK, 1u << r | 1u << (down + s)};
            else taps()[i] = {0, ~0u};
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto at = matrix.line(side + line(pass));
            inside[pass] = 0;
            for (int32 r = 0; r < down; ++r) inside[pass] |= uint32(matrix.row_inside(at, r)) << r;
            for (int32 s = 0; s < across; ++s) inside[pass] |= uint32(matrix.column_inside(at, s)) << (down + s);
            from[pass] = matrix.first(inside[pass] ? at : typename Matrix::Line{});
        }
    }

    __device__ __forceinline__ void seek(int32 depth) {
        at.seek(matrix.per_tap(), depth + chunk() * CHUNK);
        sync_copiers();  // the table is filled
        tap = taps()[at.tap];
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            chunks[pass] = {from[pass] + int64(tap.chunks + at.part) * CHUNK, (tap.bits & ~inside[pass]) == 0};
    }

    __device__ __forceinline__ void advance(int32) {
        at.advance();
        tap = taps()[at.tap];
    }
};

// TAPS along lines: filters.
template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, false, SUMS>
    : public TileMover<WalkIterator<Walk::TAPS, Matrix, SIDE, VECTOR, false, SUMS>, Matrix, SIDE, false, SUMS> {
    using Mover = TileMover<WalkIterator, Matrix, SIDE, false, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    const Matrix& matrix;
    const DTYPE* from;  // this thread's column in line 0
    int32 taps;         // 0 for a column past the end
    TapWalk<1> walks[PASSES];
    int32 lines[PASSES];  // to fetch next

    static __device__ __forceinline__ int32 (&tap_indices())[MOST_TAPS] {
        __shared__ int32 table[MOST_TAPS];
        return table;
    }

    __device__ __forceinline__ void look_up() {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            lines[pass] = walks[pass].part * matrix.all_taps() + tap_indices()[walks[pass].tap];
    }

  public:
    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        const int32 column = side + chunk() * CHUNK, across = matrix.taps_across(), all = matrix.taps_down() * across;
        for (int32 i = copier(); i < MOST_TAPS; i += COPIERS) {
            const int32 r = i / max(1, across), s = i - r * across;
            tap_indices()[i] = i < all ? matrix.tap_index(r, s) : 0;
        }
        taps = column < matrix.columns ? all : 0;
        from = matrix.base + (taps ? column : 0);
    }

    __device__ __forceinline__ void seek(int32 depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) walks[pass].seek(matrix.per_tap(), depth + line(pass));
        sync_copiers();  // the table is filled
        look_up();
    }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            chunks[pass] = {from + int64(lines[pass]) * matrix.pitch, walks[pass].tap < taps};
    }

    __device__ __forceinline__ void advance(int32) {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) walks[pass].advance();
        look_up();
    }
};

template <class Matrix, int SIDE, int VECTOR, bool SUMS>
class WalkIterator<Walk::PIXELS, Matrix, SIDE, VECTOR, false, SUMS>
    : public TileMover<WalkIterator<Walk::PIXELS, Matrix, SIDE, VECTOR, false, SUMS>, Matrix, SIDE, false, SUMS> {
    using Mover = TileMover<WalkIterator, Matrix, SIDE, false, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk;

    const Matrix& matrix;
    const typename Matrix::Reach reach;
    const DTYPE* const from;  // the column's channel of the first pixel
    int32 turn = 0;  // which of the two tables has the next tile's pixels

    static __device__ __forceinline__ typename Matrix::Anchor (&anchors())[2][STAGE_K] {
        __shared__ alignas(16) typename Matrix::Anchor table[2][STAGE_K];
        return table;
    }

    __device__ __forceinline__ void find_pixels(int32 depth) const {
        if (copier() < STAGE_K) anchors()[turn][copier()] = matrix.anchor(matrix.line(depth + copier()));
    }

  public:
    static constexpr bool FILLS_AHEAD = true;

    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side)
        : matrix(matrix), reach(matrix.reach(matrix.column(side + chunk() * CHUNK))), from(matrix.x + reach.channel) {}

    __device__ __forceinline__ void seek(int32 depth) { find_pixels(depth); }

    __device__ __forceinline__ void find(Source (&chunks)[PASSES], int32) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            const auto& at = anchors()[turn][line(pass)];
            const int32 pixel = at.pixel + reach.pixels;
            chunks[pass] = {from + int64(pixel) * matrix.pitch(), matrix.reaches(at, reach)};
        }
    }

    __device__ __forceinline__ void advance(int32 depth) {
        turn ^= 1;
        find_pixels(depth);
    }
};

template <class Matrix, int SIDE, int VECTOR, bool COLUMNS_ARE_DEPTH, bool SUMS>
class WalkIterator<Walk::SEARCH, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>
    : public TileMover<WalkIterator<Walk::SEARCH, Matrix, SIDE, VECTOR, COLUMNS_ARE_DEPTH, SUMS>, Matrix, SIDE,
                         COLUMNS_ARE_DEPTH, SUMS> {
    using Mover = TileMover<WalkIterator, Matrix, SIDE, COLUMNS_ARE_DEPTH, SUMS>;
    friend Mover;
    using Mover::PASSES, Mover::line, Mover::chunk, Mover::chunk_offset;
    static constexpr bool COPIES = VECTOR == CHUNK;
    static constexpr int PARTS = CHUNK / VECTOR;
    // Not unrolled where fetch stores single numbers, which takes fewer registers.
    static constexpr int UNROLLED = STORES_LATER || !COLUMNS_ARE_DEPTH ? PARTS : 1;
    static constexpr bool LINE_BY_LINE = !STORES_LATER && !COLUMNS_ARE_DEPTH;

    const Matrix& matrix;
    typename Matrix::Line lines[PASSES];     // constant if columns are the depth
    typename Matrix::Column columns[PARTS];  // constant if lines are
    Pack<DTYPE, CHUNK> fetched[PASSES];      // what put stores; unused unless STORES_LATER, and where chunks are copied

  public:
    static constexpr bool SEARCHES = true;

    __device__ __forceinline__ WalkIterator(const Matrix& matrix, int32 side) : matrix(matrix) {
        if constexpr (COLUMNS_ARE_DEPTH)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) lines[pass] = matrix.line(side + line(pass));
        else
#pragma unroll
            for (int part = 0; part < PARTS; ++part) columns[part] = matrix.column(side + chunk() * CHUNK + part * VECTOR);
    }

    __device__ __forceinline__ void seek(int32) {}
    __device__ __forceinline__ void advance(int32) {}

    __device__ __forceinline__ void fetch(unsigned char* tile, int32 depth) {
        if (!Mover::copies()) return;
        if constexpr (LINE_BY_LINE) {
#pragma unroll 2
            for (int pass = 0; pass < PASSES; ++pass) {
                const auto line = matrix.line(depth + this->line(pass));
#pragma unroll
                for (int part = 0; part < PARTS; ++part) fetch(tile, pass, part, line, columns[part]);
            }
            return;
        }
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass)
            if constexpr (!COLUMNS_ARE_DEPTH) lines[pass] = matrix.line(depth + line(pass));
#pragma unroll UNROLLED
        for (int part = 0; part < PARTS; ++part) {
            if constexpr (COLUMNS_ARE_DEPTH) columns[0] = matrix.column(depth + chunk() * CHUNK + part * VECTOR);
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) fetch(tile, pass, part, lines[pass], columns[COLUMNS_ARE_DEPTH ? 0 : part]);
        }
    }

    __device__ __forceinline__ void put(unsigned char* tile) {
        if constexpr (!COPIES && STORES_LATER)
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass)
                *reinterpret_cast<Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass)) = fetched[pass];
    }

  private:
    __device__ __forceinline__ void fetch(unsigned char* tile, int pass, int part, const typename Matrix::Line& line,
                                          const typename Matrix::Column& column) {
        const DTYPE* from = nullptr;
        const bool found = matrix.find(line, column, from);
        if constexpr (COPIES) {
            copy_async_or_zeros<16>(tile + chunk_offset(pass), from, found);
        } else {
            Pack<DTYPE, VECTOR> numbers = {};
            if (found) numbers = *reinterpret_cast<const Pack<DTYPE, VECTOR>*>(from);
            auto* chunk = STORES_LATER ? &fetched[pass] : reinterpret_cast<Pack<DTYPE, CHUNK>*>(tile + chunk_offset(pass));
#pragma unroll
            for (int j = 0; j < VECTOR; ++j) chunk->at[part * VECTOR + j] = numbers.at[j];
        }
    }
};
