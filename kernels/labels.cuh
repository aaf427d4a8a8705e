// Labels: one integer per row, its class; or floats, a number for each class of a row.
#pragma once

#include "types.cuh"

template <class T> constexpr bool IS_FLOAT = false;
template <> constexpr bool IS_FLOAT<float16> = true;
template <> constexpr bool IS_FLOAT<bfloat16> = true;
template <> constexpr bool IS_FLOAT<float32> = true;
template <> constexpr bool IS_FLOAT<float64> = true;
