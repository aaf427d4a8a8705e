// A table in device memory of arrays of mixed float dtypes, for one launch. Each block has an entry: up to 8192 numbers of one
// array. Numbers that are aligned to 16 bytes move 16 bytes at a time.
#pragma once

#include "types.cuh"

struct Extent {
    void* numbers;
    int64 count;
    int64 kind;  // 0 float16, 1 bfloat16, 2 float32, 3 float64
};

// Calls visit(number) for each of the thread's numbers, as T. STORE: visit may change the numbers, which are written back.
template <class T, bool STORE, class Visit>
__device__ __forceinline__ void each_number(const Extent& extent, Visit visit) {
    constexpr int PER_PACK = 16 / sizeof(T);
    using Numbers = Pack<T, PER_PACK>;
    T* const x = static_cast<T*>(extent.numbers);
    const int64 packs = uint64(x) % 16 == 0 ? extent.count / PER_PACK : 0;
    for (int64 i = threadIdx.x; i < packs; i += blockDim.x) {
        Numbers pack = reinterpret_cast<const Numbers*>(x)[i];
#pragma unroll
        for (int j = 0; j < PER_PACK; ++j) visit(pack.at[j]);
        if (STORE) reinterpret_cast<Numbers*>(x)[i] = pack;
    }
    for (int64 i = packs * PER_PACK + threadIdx.x; i < extent.count; i += blockDim.x) {
        T number = x[i];
        visit(number);
        if (STORE) x[i] = number;
    }
}
