// The main loop of gemm.cuh by wgmma: float16 and bfloat16, sm_90a.
//
// A block computes every gridDim.x-th tile of the product. Dynamic shared memory holds a ring of STAGES pairs of tiles of the
// operands, 64 deep. One warpgroup copies tiles into the ring by cp.async (tile_iterator.cuh). Tiles that the blocks of
// a cluster share come by multicasts instead (multicast_iterator.cuh). The copying warpgroup goes on to the next tile
// of the product while the others still multiply or store. The others divide the rows of the tile among them, and
// compute all of its columns, in products of 64 rows (wgmma.cuh). mbarriers tell when a stage is filled and when it is
// free (wgmma_tile.cuh).
//
// Macros: those of gemm.cuh, where THREADS (BLOCK_M / THREAD_M * BLOCK_N / THREAD_N) is 128 times the number of warpgroups that
// multiply; STAGES. A block has THREADS + 128 threads.
#pragma once

#include "wgmma_tile.cuh"
#include "tile_iterator.cuh"

constexpr int GROUP_M = BLOCK_M / WARPGROUPS;  // rows of a warpgroup
static_assert(WARPGROUPS * 128 == THREADS && WARPGROUPS * GROUP_M == BLOCK_M && GROUP_M % 64 == 0,
              "each warpgroup multiplies whole products of 64 rows");

// Fills the ring, for one tile of the product after another. Used by the warpgroup that copies.
class Copier {
    static constexpr int UNDER_WAY = STAGES - 2;  // stages that are being copied while the next one is started
    Ring copied;
    int under_way = 0;

    template <class Iterator>
    __device__ __forceinline__ void say_copied(Iterator& a) {
        if constexpr (Iterator::SUMMING) a.add(copied.tiles());
        say_copied();
    }
    __device__ __forceinline__ void say_copied() {
        fence_proxy_async();  // wgmma sees what was copied
        copied.say_filled();
        copied.next();
        --under_way;
    }

  public:
    Ring filling;  // the stage that is filled next

    // Copies the tiles of the block's depth. If `a` sums, its sums are complete on return; else the last copies may still run.
    template <class IteratorA, class IteratorB>
    __device__ __forceinline__ void copy(IteratorA& a, IteratorB& b, const Block& block) {
        a.seek(block.begin);
        b.seek(block.begin);
        for (int32 depth = block.begin; depth < block.end;) {
            // An iterator that fills a table ahead did so in seek or advance; after the barrier all copiers may read it.
            if (IteratorA::FILLS_AHEAD || IteratorB::FILLS_AHEAD) sync_copiers();
            unsigned char *tile_a = filling.tiles(), *tile_b = tile_a + IteratorA::Tile::BYTES;
            filling.wait_until_free();
            a.fetch(tile_a, depth);
            b.fetch(tile_b, depth);
            a.put(tile_a);
            b.put(tile_b);
            commit_copies();
            filling.next();
            depth += STAGE_K;
            a.advance(depth);
            b.advance(depth);
            if (++under_way <= UNDER_WAY) continue;
            wait_for_copies<UNDER_WAY>();
            say_copied(a);
        }
        if constexpr (IteratorA::SUMMING) {
            wait_for_copies<0>();
            while (under_way > 0) say_copied(a);
        }
    }

    // Waits for the last copies; called after the last tile.
    __device__ __forceinline__ void finish() {
        wait_for_copies<0>();
        while (under_way > 0) say_copied();
    }
};

// One thread's sums, and their positions in the block's tile. Used by the warpgroups that multiply.
struct Accumulators {
    float at[GROUP_M / 64][BLOCK_N / 8][4] = {};
    const int group_row = warpgroup() * GROUP_M;

    // Adds the products over the block's depth, and moves `filled` on to the stage where the next tile of the product begins. Calls
    // also(tile) for each tile of A, while it is multiplied.
    template <class TileA, class TileB, class Also>
    __device__ __forceinline__ void multiply(Ring& filled, const Block& block, Also also) {
        Ring multiplied = filled;
        int32 depth = block.begin;
        if (depth >= block.end) return;
        do {  // so ptxas sees that every wait follows a product
            filled.wait_until_filled();
            const uint32 a = shared_address(filled.tiles()), b = a + TileA::BYTES;
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < STAGE_K; k += 16)
#pragma unroll
                for (int part = 0; part < GROUP_M / 64; ++part)
                    multiply_add_async<DTYPE, TileA::MAJOR, TileB::MAJOR>(
                        at[part], TileA::Layout::descriptor(a, group_row + part * 64, k), TileB::Layout::descriptor(b, 0, k));
            wgmma_commit();
            also(filled.tiles());
            filled.next();
            wgmma_wait<1>();  // the products of the previous stage are complete
            if (depth > block.begin) {
                multiplied.say_free();
                multiplied.next();
            }
            depth += STAGE_K;
        } while (depth < block.end);
        wgmma_wait<0>();
#pragma unroll
        for (int part = 0; part < GROUP_M / 64; ++part) pin(at[part]);
        multiplied.say_free();
    }

    template <class TileA, class TileB>
    __device__ __forceinline__ void multiply(Ring& filled, const Block& block) {
        multiply<TileA, TileB>(filled, block, [](const unsigned char*) {});
    }

    // Initializes every sum with the bias of its column.
    __device__ __forceinline__ void begin_at(const DTYPE* bias, const Block& block, int32 columns) {
#pragma unroll
        for (int j = 0; j < BLOCK_N / 8; ++j)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const int32 column = block.column + j * 8 + threadIdx.x % 4 * 2 + k;
                const Real value = column < columns ? load(bias[column]) : Real(0);
#pragma unroll
                for (int part = 0; part < GROUP_M / 64; ++part) at[part][j][k] = at[part][j][2 + k] = value;
            }
    }

    // Stores the sums of the block's tile; epilogue and rows as in FragmentStore::store.
    template <int VECTOR, class To, class Rows>
    __device__ __forceinline__ void store(const To& epilogue, const Block& block, const Rows& rows) const {
        const int warp = threadIdx.x / 32;
        float* buffer = reinterpret_cast<float*>(stored_memory(warp));
#pragma unroll
        for (int part = 0; part < GROUP_M / 64; ++part)
#pragma unroll
            for (int first = 0; first < BLOCK_N; first += 32)
                FragmentStore::store<VECTOR>(epilogue, rows, block.row + group_row + part * 64 + warp % 4 * 16,
                                             block.column + first, buffer, &at[part][first / 8]);
    }

    // The barrier of the threads that have sums.
    static __device__ __forceinline__ void sync() { warps_sync<1>(THREADS); }
};
