// Labels: one integer per row, its class; or floats, a number for each class of a row.
#pragma once

#include "types.cuh"

constexpr int64 IGNORE_NOTHING = -9223372036854775807LL - 1;  // as `ignored`: ignores no label, not even an equal one

__device__ __forceinline__ bool is_ignored(int64 label, int64 ignored) { return label == ignored && ignored != IGNORE_NOTHING; }

template <class T> constexpr bool IS_FLOAT = false;
template <> constexpr bool IS_FLOAT<float16> = true;
template <> constexpr bool IS_FLOAT<bfloat16> = true;
template <> constexpr bool IS_FLOAT<float32> = true;
template <> constexpr bool IS_FLOAT<float64> = true;
