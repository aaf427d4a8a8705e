// Copies of ranges and of tensor tiles between global and shared memory, by the async proxy (sm_90). One thread starts a copy.
//
//   mbarrier_arrive_expecting(&full, 4096);   // loads report their bytes to an mbarrier (mbarrier.cuh)
//   bulk_load(tile, x, 4096, &full);          // a multiple of 16 bytes, from and to addresses aligned to 16
//   tensor_load(tile, map, &full, {c, w, n}); // the box of a TensorMap at these coordinates, innermost first; zeros outside
//   tensor_load_multicast(tile, map, &full, {c, w, n}, 0b11);  // the box to both blocks of a cluster (cluster.cuh)
//   mbarrier_wait(&full, parity);
//
//   fence_proxy_async();  // by each thread that wrote the tile with ordinary stores; then a barrier; then one thread:
//   bulk_store(y, tile, 4096);  or  tensor_store(map, tile, {c, w, n});  // elements outside are not stored
//   bulk_commit();        // makes this thread's stores since the last commit one group
//   bulk_wait_read<0>();  // waits until at most 0 groups still read shared memory
//   bulk_wait<0>();       // waits until at most 0 groups still read or write
//
// After bulk_wait_read<0>() the thread may let others overwrite the tile, and the block may end.
//
// A TensorMap is a kernel's parameter, `const __grid_constant__ TensorMap map`; the expected bytes of a box include
// those outside the tensor. A tile is aligned to 128 bytes, or if the map is swizzled, to eight lines of the swizzle
// (wgmma_layout.cuh).
// (PTX ISA, "cp.async.bulk", "cp.async.bulk.tensor"; CUDA driver API, cuTensorMapEncodeTiled.)
//
// A map comes from gpuconv.backends.cuda.runtime.tensor_map. The emulator reports a box that lies wholly
// outside the tensor in the first or the last dimension. In the dimensions between, where convolutions have padding, it
// reports a box only if 128 or more elements lie between box and tensor.
#pragma once

#include "mbarrier.cuh"
#include "wgmma_layout.cuh"

struct alignas(64) TensorMap {
    uint64 opaque[16];
};

#ifdef GPUCONV_EMULATOR

namespace emulated {

// The struct that tensor_map.py packs.
struct Tensor {
    uint64 magic, base;
    uint32 rank, element_bytes, swizzle, unused;
    int32 size[5];
    uint32 box[5];
    uint64 stride[5];  // in bytes
};
static_assert(sizeof(Tensor) <= sizeof(TensorMap), "a Tensor fits into a TensorMap");

// Hands the pieces of a box to the emulator: 16 bytes of shared memory each, or less at the edge.
template <int RANK>
GPUCONV_UNCHECKED inline void add_pieces(const TensorMap& map, const void* shared, const int (&at)[RANK], gpuconv_emulator::Site site) {
    Tensor tensor;
    __builtin_memcpy(&tensor, &map, sizeof tensor);
    if (tensor.magic != 0x70616d726f736e74) gpuconv_fail("this TensorMap was not made by tensor_map()", site);
    if (tensor.rank != RANK) gpuconv_fail("the number of coordinates is not the TensorMap's number of dimensions", site);
    const Swizzle swizzle = tensor.swizzle == 128  ? Swizzle::BYTES_128
                            : tensor.swizzle == 64 ? Swizzle::BYTES_64
                            : tensor.swizzle == 32 ? Swizzle::BYTES_32
                                                   : Swizzle::NONE;
    const uint32 begin = gpuconv_shared_address(shared), alignment = tensor.swizzle ? 8 * tensor.swizzle : 128;
    if (begin % alignment)
        gpuconv_fail(tensor.swizzle ? "the tile of a swizzled TensorMap does not begin where a swizzled atom does"
                                    : "the tile of a TensorMap is not aligned to 128 bytes", site);
    for (int d = 0; d < RANK; ++d) {
        const int beyond = d == 0 || d == RANK - 1 ? 0 : 128;
        if (int64(at[d]) >= int64(tensor.size[d]) + beyond || int64(at[d]) + tensor.box[d] <= -beyond)
            gpuconv_fail("coordinates out of range: the box lies outside the tensor", site);
    }
    uint32 rows = 1;
    for (int d = 1; d < RANK; ++d) rows *= tensor.box[d];
    const uint32 line = tensor.box[0] * tensor.element_bytes;
    for (uint32 row = 0; row < rows; ++row) {
        uint64 from = tensor.base;
        bool inside = true;
        for (uint32 d = 1, rest = row; d < RANK; rest /= tensor.box[d++]) {
            const int64 i = at[d] + int64(rest % tensor.box[d]);
            inside &= i >= 0 && i < tensor.size[d];
            from += i * tensor.stride[d];
        }
        for (uint32 byte = 0; byte < line; byte += 16) {
            char* to = static_cast<char*>(gpuconv_shared_pointer(swizzled(swizzle, begin + row * line + byte)));
            // Of these 16 bytes, those from `skip` to `stop` come from the tensor; the others are zeros.
            const int64 first = int64(at[0]) * tensor.element_bytes + byte, end = int64(tensor.size[0]) * tensor.element_bytes;
            const int64 skip = inside ? min(max(-first, int64(0)), int64(16)) : 16, stop = max(skip, min(end - first, int64(16)));
            if (skip > 0) gpuconv_bulk_piece(to, nullptr, skip);
            if (stop > skip) gpuconv_bulk_piece(to + skip, reinterpret_cast<void*>(from + first + skip), stop - skip);
            if (stop < 16) gpuconv_bulk_piece(to + stop, nullptr, 16 - stop);
        }
    }
}

inline void add_range(const void* shared, const void* global, uint32 bytes, gpuconv_emulator::Site site) {
    if (gpuconv_shared_address(shared) % 16 || reinterpret_cast<uint64>(global) % 16 || bytes % 16 || bytes == 0)
        gpuconv_fail("a bulk copy moves a multiple of 16 bytes between addresses aligned to 16", site);
    gpuconv_bulk_piece(const_cast<void*>(shared), const_cast<void*>(global), bytes);
}

}  // namespace emulated

#endif

__device__ __forceinline__ void bulk_load(void* to_shared, const void* from_global, uint32 bytes, Mbarrier* barrier GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    emulated::add_range(to_shared, from_global, bytes, GPUCONV_SITE);
    gpuconv_bulk_load(barrier, GPUCONV_SITE);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to_shared)), "l"(__cvta_generic_to_global(from_global)), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
#endif
}

__device__ __forceinline__ void bulk_store(void* to_global, const void* from_shared, uint32 bytes GPUCONV_CALLER) {
#ifdef GPUCONV_EMULATOR
    emulated::add_range(from_shared, to_global, bytes, GPUCONV_SITE);
    gpuconv_bulk_store(GPUCONV_SITE);
#else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to_global)),
                 "r"(shared_address(from_shared)), "r"(bytes)
                 : "memory");
#endif
}

#ifndef GPUCONV_EMULATOR
// multicast, mask: "" for this block alone, or ".multicast::cluster" and the mask's operand.
#define GPUCONV_TENSOR_LOAD(multicast, mask, ranks, rank, coordinates, ...)                                                     \
    asm volatile("cp.async.bulk.tensor." rank ".shared::cluster.global.tile.mbarrier::complete_tx::bytes" multicast              \
                 " [%0], [%1, {" coordinates "}], [%2]" mask ";" ::"r"(shared_address(to_shared)), "l"(&map),                     \
                 "r"(shared_address(barrier)), "h"(static_cast<uint16>(ranks)), __VA_ARGS__                                      \
                 : "memory")
#define GPUCONV_TENSOR_LOADS(...)                                                                                               \
    if constexpr (RANK == 2) GPUCONV_TENSOR_LOAD(__VA_ARGS__, "2d", "%4, %5", "r"(at[0]), "r"(at[1]));                           \
    else if constexpr (RANK == 3) GPUCONV_TENSOR_LOAD(__VA_ARGS__, "3d", "%4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]));      \
    else if constexpr (RANK == 4)                                                                                               \
        GPUCONV_TENSOR_LOAD(__VA_ARGS__, "4d", "%4, %5, %6, %7", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));                \
    else                                                                                                                        \
        GPUCONV_TENSOR_LOAD(__VA_ARGS__, "5d", "%4, %5, %6, %7, %8", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]))
#endif

template <int RANK>
__device__ __forceinline__ void tensor_load(void* to_shared, const TensorMap& map, Mbarrier* barrier,
                                            const int (&at)[RANK] GPUCONV_CALLER) {
    static_assert(RANK >= 2 && RANK <= 5, "2 to 5 dimensions");
#ifdef GPUCONV_EMULATOR
    emulated::add_pieces(map, to_shared, at, GPUCONV_SITE);
    gpuconv_bulk_load(barrier, GPUCONV_SITE);
#else
    GPUCONV_TENSOR_LOADS("", "", 0);
#endif
}

// Copies the box to each block of the cluster whose bit in `ranks` is set, and reports its bytes to an mbarrier of that
// block. The addresses of box and mbarrier, counted from the start of a block's shared memory, are the same in each
// block.
template <int RANK>
__device__ __forceinline__ void tensor_load_multicast(void* to_shared, const TensorMap& map, Mbarrier* barrier,
                                                      const int (&at)[RANK], uint32 ranks GPUCONV_CALLER) {
    static_assert(RANK >= 2 && RANK <= 5, "2 to 5 dimensions");
#ifdef GPUCONV_EMULATOR
    emulated::add_pieces(map, to_shared, at, GPUCONV_SITE);
    gpuconv_bulk_multicast(barrier, ranks, GPUCONV_SITE);
#else
    GPUCONV_TENSOR_LOADS(".multicast::cluster", ", %3", ranks);
#endif
}

#ifndef GPUCONV_EMULATOR
#undef GPUCONV_TENSOR_LOADS
#undef GPUCONV_TENSOR_LOAD
#endif

template <int RANK>
__device__ __forceinline__ void tensor_store(const TensorMap& map, const void* from_shared, const int (&at)[RANK] GPUCONV_CALLER) {
    static_assert(RANK >= 2 && RANK <= 5, "2 to 5 dimensions");
#ifdef GPUCONV_EMULATOR
    emulated::add_pieces(map, from_shared, at, GPUCONV_SITE);
    gpuconv_bulk_store(GPUCONV_SITE);
#else
#define GPUCONV_TENSOR_STORE(rank, coordinates, ...)                                                                  \
    asm volatile("cp.async.bulk.tensor." rank ".global.shared::cta.tile.bulk_group [%0, {" coordinates "}], [%1];" :: \
                     "l"(&map), "r"(shared_address(from_shared)), __VA_ARGS__                                        \
                 : "memory")
    if constexpr (RANK == 2) GPUCONV_TENSOR_STORE("2d", "%2, %3", "r"(at[0]), "r"(at[1]));
    else if constexpr (RANK == 3) GPUCONV_TENSOR_STORE("3d", "%2, %3, %4", "r"(at[0]), "r"(at[1]), "r"(at[2]));
    else if constexpr (RANK == 4)
        GPUCONV_TENSOR_STORE("4d", "%2, %3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
    else GPUCONV_TENSOR_STORE("5d", "%2, %3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#undef GPUCONV_TENSOR_STORE
#endif
}

__device__ __forceinline__ void bulk_commit() {
#ifdef GPUCONV_EMULATOR
    gpuconv_bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

template <int PENDING>
__device__ __forceinline__ void bulk_wait_read() {
#ifdef GPUCONV_EMULATOR
    gpuconv_bulk_wait(PENDING);
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
#endif
}

template <int PENDING>
__device__ __forceinline__ void bulk_wait() {
#ifdef GPUCONV_EMULATOR
    gpuconv_bulk_wait(PENDING);
#else
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
