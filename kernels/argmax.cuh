// The rule by which the largest of several numbers is found: NaN wins, and of equal numbers the first.
#pragma once

// Whether `value` takes the lead from the largest number before it.
template <class T>
__device__ __forceinline__ bool takes_lead(T value, T leader) {
    return value > leader || (value != value && leader == leader);
}
