// A tensor's digest: a hash of its bytes and sums of its values, in one pass.
//
//   digest[0], digest[1] = the upper and the lower 32 bits of the hash
//   digest[2] = sum of x,  digest[3] = sum of x^2,  digest[4] = sum of (x - before)^2, or 0 if before is null
//
// The hash is the sum, modulo 2^64, of mix(word[j] + (j + 1) * 0x9e3779b97f4a7c15), in any order. word[j]: bytes 8 j to 8 j + 7
// of x as an unsigned number, with zeros after the last byte. mix: the output function of SplitMix64 (Steele, Lea and Flood,
// "Fast splittable pseudorandom number generators", 2014). The other sums are in double.
//
// kind: the dtype of x and before: 0 float16, 1 bfloat16, 2 float32, 3 float64. partials: the sums of each block. done: the
// number of blocks done, zero before and after. The last block to finish adds up the partials in a fixed order, so the result
// does not depend on which one that is.
//
// Macros: none. Limits: none.
// Floor: the bytes of x and before, read once; per number 6 FLOPs in double, and per 8 bytes some 10 integer operations of 64 bits.

#include "last_block.cuh"
#include "reduce.cuh"
#include "types.cuh"

struct Sums {
    uint64 hash = 0;
    double sum = 0, squares = 0, moved = 0;
};

// 16 bytes of a tensor, with zeros after its end.
template <class T>
union Chunk {
    static constexpr int LENGTH = 16 / sizeof(T);
    Pack<T, LENGTH> numbers;
    uint64 words[2];

    __device__ __forceinline__ Chunk(const T* x, int64 begin, int64 end, bool aligned) : words{0, 0} {
        if (aligned && begin + LENGTH <= end) numbers = *reinterpret_cast<const Pack<T, LENGTH>*>(x + begin);
        else
#pragma unroll
            for (int i = 0; i < LENGTH; ++i)
                if (begin + i < end) numbers.at[i] = x[begin + i];
    }
};

__device__ __forceinline__ uint64 mix(uint64 z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

__device__ __forceinline__ bool is_aligned(const void* x) { return reinterpret_cast<uint64>(x) % 16 == 0; }

// The sums of the thread's chunks.
template <class T>
__device__ __forceinline__ Sums sums_of(const void* tensor, const void* old, int64 count) {
    constexpr int LENGTH = Chunk<T>::LENGTH;
    const T *x = static_cast<const T*>(tensor), *before = static_cast<const T*>(old);
    const bool aligned = is_aligned(x), before_aligned = is_aligned(before);
    Sums own;
    for (int64 chunk = global_thread(); chunk * LENGTH < count; chunk += global_threads()) {
        const int64 begin = chunk * LENGTH;
        const Chunk<T> now(x, begin, count, aligned), then(before, begin, before ? count : begin, before_aligned);
#pragma unroll
        for (int j = 0; j < 2; ++j)
            if (begin + j * LENGTH / 2 < count) own.hash += mix(now.words[j] + (2 * chunk + j + 1) * 0x9e3779b97f4a7c15u);
#pragma unroll
        for (int j = 0; j < LENGTH; ++j) {
            const double value = load(now.numbers.at[j]), change = value - load(then.numbers.at[j]);
            own.sum += value;
            own.squares = fma(value, value, own.squares);
            own.moved = fma(change, change, own.moved);
        }
    }
    return own;
}

// The sums over the block, which every thread receives.
__device__ Sums reduce(const Sums& own) {
    __shared__ uint64 hashes[32];
    __shared__ double scratch[32];
    Sums found;
    found.hash = reduce_block(own.hash, Sum<uint64>(), hashes);
    found.sum = reduce_block(own.sum, Sum<double>(), scratch);
    found.squares = reduce_block(own.squares, Sum<double>(), scratch);
    found.moved = reduce_block(own.moved, Sum<double>(), scratch);
    return found;
}

extern "C" __global__ void __launch_bounds__(256)
tensor_digest(double* digest, Sums* partials, uint32* done, const void* x, const void* before, int64 count, int32 kind) {
    Sums own;
    switch (kind) {
        case 0: own = sums_of<float16>(x, before, count); break;
        case 1: own = sums_of<bfloat16>(x, before, count); break;
        case 2: own = sums_of<float32>(x, before, count); break;
        default: own = sums_of<float64>(x, before, count); break;
    }
    own = reduce(own);
    if (threadIdx.x == 0) partials[blockIdx.x] = own;
    if (!is_last_block(done)) return;
    Sums all;
    for (uint32 i = threadIdx.x; i < gridDim.x; i += blockDim.x) {
        all.hash += __ldcg(&partials[i].hash);
        all.sum += __ldcg(&partials[i].sum);
        all.squares += __ldcg(&partials[i].squares);
        all.moved += __ldcg(&partials[i].moved);
    }
    all = reduce(all);
    if (threadIdx.x != 0) return;
    digest[0] = double(all.hash >> 32);
    digest[1] = double(all.hash & 0xffffffffu);
    digest[2] = all.sum;
    digest[3] = all.squares;
    digest[4] = before ? all.moved : 0;
}
