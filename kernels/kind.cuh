// Arrays whose dtype a kernel learns when it runs: `kind` is 0 for float16, 1 bfloat16, 2 float32, 3 float64.
#pragma once

#include "types.cuh"

// Returns visit(zero), where zero has the dtype of this kind.
template <class Visit>
__device__ __forceinline__ auto visit_kind(int64 kind, Visit visit) {
    switch (kind) {
        case 0: return visit(float16());
        case 1: return visit(bfloat16());
        case 2: return visit(float32());
        default: return visit(float64());
    }
}
