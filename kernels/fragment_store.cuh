// Stores a warp's sums from the layout of tensor cores (mma.cuh, wgmma.cuh) through shared memory, so that neighboring lanes store
// neighboring outputs.
#pragma once

#include "gemm.cuh"

struct FragmentStore {
    static constexpr int BYTES = 16 * 32 * sizeof(float);  // bytes of shared memory per warp

    // Stores 16 rows by 32 columns, which begin at (row, column) of the product, through `buffer`, the warp's own. sums: its four
    // products of 16 x 8. rows(i): the output row of the product's row i. The epilogue takes ROWS neighboring rows at once;
    // lane ^ 1 holds the neighboring columns. INTERLEAVED: column i of product j is column 4 i + j of the 32 (mma_tile.cuh).
    template <int VECTOR, bool INTERLEAVED = false, class To, class Rows>
    static __device__ __forceinline__ void
    store(const To& epilogue, const Rows& rows, int32 row, int32 column, float* buffer, const float (*sums)[4]) {
        constexpr int N = VECTOR == 8 && To::ROWS == 1 ? 8 : 4, LANES = 32 / N;  // neighboring sums of a lane; lanes per row
        const int lane = threadIdx.x % 32, own_column = lane % LANES * N;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int own = lane / 4 + half * 8;
            if constexpr (INTERLEAVED) {
#pragma unroll
                for (int k = half * 2; k < half * 2 + 2; ++k)
                    *reinterpret_cast<Pack<float, 4>*>(buffer + swizzle(own, lane % 4 * 8 + k % 2 * 4)) = {
                        {sums[0][k], sums[1][k], sums[2][k], sums[3][k]}};
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    *reinterpret_cast<Pack<float, 2>*>(buffer + swizzle(own, j * 8 + lane % 4 * 2)) = {
                        {sums[j][half * 2], sums[j][half * 2 + 1]}};
            }
        }
        __syncwarp();
        constexpr int PASSES = 16 * LANES / 32 / To::ROWS;
#pragma unroll VECTOR > 1 && BLOCK_M * BLOCK_N <= 16384 ? PASSES : 1  // if unrolled, single numbers and large tiles would spill
        for (int pass = 0; pass < PASSES; ++pass) {
            const int own_row = (lane / LANES + pass * (32 / LANES)) * To::ROWS;
            Pack<Real, N> finished[To::ROWS];
#pragma unroll
            for (int r = 0; r < To::ROWS; ++r) finished[r] = read<N>(buffer, own_row + r, own_column);
            epilogue.template store<VECTOR>(rows(row + own_row), column + own_column, finished);
        }
        __syncwarp();
    }

  private:
    // The position of a sum among its warp's 16 x 32. A row of 32 sums occupies all banks once, as eight chunks of four sums. The
    // chunks of rows 0, 1, 2 and 3 are permuted by xor with 0, 3, 4 and 7, those of later rows likewise. So no access has a bank
    // conflict: 16 lanes store two sums each, in two neighboring chunks of four rows; or 8 lanes store or read four sums each, in
    // all chunks of one row or in every second chunk of two rows.
    static __device__ __forceinline__ int swizzle(int row, int column) {
        return row * 32 + ((column / 4 ^ (row % 4 * 2 + row % 2)) * 4 + column % 4);
    }

    // Reads N neighboring sums, four at a time.
    template <int N>
    static __device__ __forceinline__ Pack<Real, N> read(const float* from, int row, int column) {
        Pack<Real, N> sums;
#pragma unroll
        for (int first = 0; first < N; first += 4) {
            const auto four = *reinterpret_cast<const Pack<Real, 4>*>(from + swizzle(row, column + first));
#pragma unroll
            for (int j = 0; j < 4; ++j) sums.at[first + j] = four.at[j];
        }
        return sums;
    }
};
