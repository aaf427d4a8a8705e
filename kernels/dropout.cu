// Dropout; forward and backward are the same: y[i] = kept(i) ? x[i] * scale : 0.
//
// Element i is kept if the upper 24 bits of word first + i of the Philox stream (DROPOUT, substream), counted from block
// `offset`, are at least `threshold` = ceil(p * 2^24). The mask depends only on the position: it is not stored, and backward draws
// it again. A thread computes one Philox block, four elements, with one load and one store if VECTOR is 4. If x or y is a slice of
// a wider volume's channels, `x_gap` or `y_gap` other elements follow each row of its `length` elements in memory. offset_at: the
// offset in device memory, or null for `offset`.
//
// Macros: DTYPE; VECTOR: 4 if x and y are aligned to 4 * sizeof(DTYPE) bytes, and n and `first` (with a gap also `length` and the
// gaps) are multiples of 4; else, and for float64, 1.
// Limits: none.
// Floor: 2 sizeof(DTYPE) bytes and some 15 integer instructions (10 Philox rounds) per element.

#include "philox.cuh"

extern "C" __global__ void __launch_bounds__(256)
dropout_forward(DTYPE* y, const DTYPE* x, int64 n, uint32 threshold, double scale, uint64 seed,
                uint32 substream, const int64* offset_at, int64 offset, int64 first, int64 length, int64 y_gap, int64 x_gap) {
    const auto factor = accumulator<DTYPE>(scale);
    const uint64 first_block = read_offset(offset_at, offset) + uint64(first / 4);
    const int before = int(first % 4);  // words of the first block that belong to earlier elements
    const bool gaps = x_gap || y_gap;   // without them there is nothing to divide
    for (int64 block = global_thread(); block * 4 < before + n; block += global_threads()) {
        const Words words = philox(first_block + uint64(block), DROPOUT, substream, seed);
#if VECTOR == 4
        const int64 at = block * 4, row = gaps ? at / length : 0;
        auto pack = *reinterpret_cast<const Pack<DTYPE, 4>*>(x + at + row * x_gap);
#pragma unroll
        for (int i = 0; i < 4; ++i)
            pack.at[i] = round_to<DTYPE>(words.at[i] >> 8 >= threshold ? load(pack.at[i]) * factor : accumulator<DTYPE>(0));
        *reinterpret_cast<Pack<DTYPE, 4>*>(y + at + row * y_gap) = pack;
#else
        for (int i = 0; i < 4; ++i)
            if (const int64 at = block * 4 + i - before; at >= 0 && at < n) {
                const int64 row = gaps ? at / length : 0;
                y[at + row * y_gap] = round_to<DTYPE>(
                    words.at[i] >> 8 >= threshold ? load(x[at + row * x_gap]) * factor : accumulator<DTYPE>(0));
            }
#endif
    }
}
