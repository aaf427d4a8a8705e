// The step of the dynamic loss scale, between backward and the optimizer, in one launch: tests whether all gradients are finite.
//
//                                              all gradients finite                    else
//   scaling[0]  the scale of the next step     * growth after `interval` good steps    * backoff
//   scaling[1]  the factor of these gradients  1 / the previous scaling[0]             0: the optimizer skips the step
//   scaling[2]  good steps in a row            + 1, but 0 after growth                 0
//   scaling[3]  skipped steps                  unchanged                               + 1
//
// extents: the gradients, see extent.cuh. A number is not finite if all bits of its exponent are set. found: the number of blocks
// that found such a number, and the number of blocks done; both are zero before and after. The last block to finish updates
// scaling; the result does not depend on which one that is.
//
// Macros: none. Limits: none. Floor: the bytes of the gradients, read once; no FLOPs, a test of bits per number.
#include "extent.cuh"
#include "last_block.cuh"

// Whether one of the thread's numbers is not finite. BITS: an unsigned integer as wide as the number.
template <class BITS>
__device__ __forceinline__ bool overflows(const Extent& extent, BITS exponent) {
    bool found = false;
    each_number<BITS, false>(extent, [&](BITS number) { found |= (number & exponent) == exponent; });
    return found;
}

extern "C" __global__ void __launch_bounds__(256, 2)
loss_scale_update(double* scaling, uint32* found, const Extent* extents, double growth, double backoff, double interval) {
    const Extent extent = extents[blockIdx.x];
    bool overflowed;
    switch (extent.kind) {
        case 0: overflowed = overflows<uint16>(extent, 0x7c00); break;
        case 1: overflowed = overflows<uint16>(extent, 0x7f80); break;
        case 2: overflowed = overflows<uint32>(extent, 0x7f800000); break;
        default: overflowed = overflows<uint64>(extent, 0x7ff0000000000000); break;
    }
    const bool any = __syncthreads_or(overflowed);
    if (any && threadIdx.x == 0) atomicInc(found, gridDim.x);
    if (!is_last_block(found + 1) || threadIdx.x != 0) return;
    const bool overflow = __ldcg(found);
    found[0] = 0;
    const double scale = scaling[0], good = overflow ? 0 : scaling[2] + 1;
    const bool grow = good >= interval;
    scaling[0] = overflow ? scale * backoff : grow ? scale * growth : scale;
    scaling[1] = overflow ? 0 : 1 / scale;
    scaling[2] = grow ? 0 : good;
    scaling[3] += overflow ? 1 : 0;
}
