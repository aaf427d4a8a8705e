// The step of the dynamic loss scale, between backward and the optimizer, in one launch: tests whether all gradients are finite.
//
//                                              all gradients finite                    else
//   scaling[0]  the scale of the next step     * growth after `interval` good steps    * backoff
//   scaling[1]  the factor of these gradients  1 / the previous scaling[0]             0: the optimizer skips the step
//   scaling[2]  good steps in a row            + 1, but 0 after growth                 0
//   scaling[3]  skipped steps                  unchanged                               + 1
//
// extents: the gradients, see extent.cuh. found: the number of blocks that found a number that is not finite, and the number of
// blocks done; both are zero before and after. The last block to finish updates scaling; the result does not depend on which one
// that is.
//
// Macros: none. Limits: none. Floor: the bytes of the gradients, read once.
#include "extent.cuh"
#include "last_block.cuh"

extern "C" __global__ void __launch_bounds__(256, 2)
loss_scale_update(double* scaling, uint32* found, const Extent* extents, double growth, double backoff, double interval) {
    bool overflowed = false;
    each_number<false>(extents[blockIdx.x], [&](auto number) { overflowed |= !isfinite(load(number)); });
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
