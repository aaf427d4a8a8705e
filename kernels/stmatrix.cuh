// Stores a warp's fragments of sums as rows of 16-bit numbers in shared memory (stmatrix, sm_90): the reverse of load_matrices
// (mma.cuh).
//
//   uint32 halves[4];                        // two 16-bit numbers each
//   store_matrices<false>(&tile[...], halves);  // stmatrix.x4: each lane passes the address of one row of 16 bytes
//   store_matrices<true>(&tile[...], halves);   // transposes each 8 x 8 matrix
//
// Lanes 8m to 8m + 7 pass the addresses of matrix m's rows. Lane l passes in from[m] the numbers 2 (l % 4) and 2 (l % 4) + 1 of
// row l / 4, or if transposed of column l / 4. All lanes of a warp take part. (PTX ISA, "stmatrix".)
#pragma once

#include "mma.cuh"
#include "sm90.cuh"

#ifdef GPUCONV_EMULATOR

namespace emulated {

struct StoredMatrices {
    const uint32* from;
    Row out;
};

template <bool TRANSPOSED>
GPUCONV_UNCHECKED inline void gather_rows(void* const* lanes) {
    for (int lane = 0; lane < 32; ++lane) {
        const int m = lane / 8, row = lane % 8;
        auto* to = reinterpret_cast<uint16*>(static_cast<StoredMatrices*>(lanes[lane])->out.words);
        for (int i = 0; i < 8; ++i) {
            const int g = TRANSPOSED ? i : row, at = TRANSPOSED ? row : i;
            to[i] = uint16(static_cast<StoredMatrices*>(lanes[4 * g + at / 2])->from[m] >> (at % 2 * 16));
        }
    }
}

}  // namespace emulated

#endif

template <bool TRANSPOSED>
__device__ __forceinline__ void store_matrices(void* row, const uint32 (&from)[4]) {
#ifdef GPUCONV_EMULATOR
    emulated::StoredMatrices own{from, {}};
    gpuconv_together(&own, emulated::gather_rows<TRANSPOSED>, {__FILE__, __LINE__});
    *static_cast<emulated::Row*>(row) = own.out;
#else
    if constexpr (TRANSPOSED)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                     "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                     : "memory");
    else
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                     "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                     : "memory");
#endif
}
