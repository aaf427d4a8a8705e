// Division by a number that the launcher knows.
#pragma once

#include "types.cuh"

// n / d for 0 <= n < 2^31 as a product (Granlund and Montgomery, 1994): with 2^(l-1) < d <= 2^l and
// multiplier = ceil(2^(31+l) / d), n / d = n * multiplier >> (31 + l).
struct FastDivmod {
    uint32 divisor, multiplier, shift;  // shift: l
    // Returns n / d, and sets n to n mod d.
    __device__ __forceinline__ int32 divide(int32& n) const {
        const int32 quotient = int32(__umulhi(2 * uint32(n), multiplier) >> shift);
        n -= quotient * int32(divisor);
        return quotient;
    }
};
