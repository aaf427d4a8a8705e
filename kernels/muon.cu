// The steps of Muon around its matrix products (matmul.cu), for a batch of parameters of one shape, rows x columns.
//
//   muon_direction   v = momentum * v + g;  x = v, or g + momentum * v with nesterov;  partials: each block's sums of x^2, p^2
//   muon_normalize   factors = x / (|x| + eps), |x| the root of the sum of squares
//   muon_apply       p = p * sqrt(rows) / |p| - lr * factors, after the products;  where |p| is 0: p - lr * factors
//
// matrices: a table in device memory with the addresses of each parameter, its gradient, velocity, 16-bit copy and average. x
// (batch, lines, width), of accumulators, holds a direction for each parameter, transposed if rows > columns, so that
// lines <= width; factors (batch, lines, width), which the products multiply, may be x itself. A block takes up to 8192 numbers of
// one matrix. Every block that needs a norm adds up the partial sums of that matrix in a fixed order. lr, scaling,
// masters and averages as in optimizer.cu.
// Half precision is computed in float32 and rounded once.
//
// Macros: DTYPE and GRAD of optimizer.cu; FACTOR: the dtype of what is multiplied, the accumulator's or bfloat16. Limits: none.
// Floor, per number, in bytes and FLOPs: direction 4 sizeof(DTYPE) + sizeof(accumulator), up to 9; normalize sizeof(accumulator) +
// sizeof(FACTOR), 1; apply 2 sizeof(DTYPE) + sizeof(FACTOR), 3 (an average: 2 sizeof(DTYPE) and 3 more).
#include "moving_average.cuh"
#include "optimizer_inputs.cuh"
#include "reduce.cuh"

using Real = accumulator<DTYPE>;
constexpr int64 PER_BLOCK = 8192;

struct Matrix {
    DTYPE* param;
    const GRAD* grad;
    DTYPE* velocity;
    GRAD* copy;      // null: the parameter has no 16-bit copy
    DTYPE* average;  // null: no average
};

struct Matrices {
    int64 size;  // rows * columns
    int32 rows, columns, blocks, transposed;

    // The offset in x's matrix of number i of a parameter.
    __device__ __forceinline__ int64 offset_in_x(int64 i) const {
        return transposed ? i % columns * rows + i / columns : i;
    }
};

// The numbers of a matrix that a block takes.
struct Part {
    int64 matrix, block, begin, end;

    __device__ __forceinline__ explicit Part(const Matrices& all)
        : matrix(blockIdx.x / all.blocks), block(blockIdx.x % all.blocks), begin(block * PER_BLOCK),
          end(begin + PER_BLOCK < all.size ? begin + PER_BLOCK : all.size) {}
};

// The norm of x (`which` 0) or p (1) from a matrix's partial sums of squares. Every thread of the block receives it.
__device__ __forceinline__ Real norm(const Real* partials, const Part& part, const Matrices& all, int which, Real* scratch) {
    Real sum = 0;
    for (int32 block = threadIdx.x; block < all.blocks; block += blockDim.x)
        sum += partials[(part.matrix * all.blocks + block) * 2 + which];
    return sqrt(reduce_block(sum, Sum<Real>{}, scratch));
}

extern "C" __global__ void __launch_bounds__(256, sizeof(DTYPE) == 8 ? 3 : 4)  // doubles take more registers
muon_direction(accumulator<DTYPE>* x, accumulator<DTYPE>* partials, const Matrix* matrices, const double* scaling,
               const Matrices all, double momentum, bool nesterov) {
    __shared__ Real scratch[32];
    const Part part(all);
    const Matrix matrix = matrices[part.matrix];
    const Real unscale = Real(read_unscale(scaling));
    const Real mu = Real(momentum);
    Real x_squares = 0, p_squares = 0;
    for (int64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        const Real p = load(matrix.param[i]), g = load(matrix.grad[i]) * unscale, v = mu * load(matrix.velocity[i]) + g;
        const Real direction = nesterov ? g + mu * v : v;
        if (unscale != 0) matrix.velocity[i] = round_to<DTYPE>(v);
        x[part.matrix * all.size + all.offset_in_x(i)] = direction;
        x_squares += direction * direction;
        p_squares += p * p;
    }
    x_squares = reduce_block(x_squares, Sum<Real>{}, scratch);
    p_squares = reduce_block(p_squares, Sum<Real>{}, scratch);
    if (threadIdx.x == 0) {
        partials[int64(blockIdx.x) * 2] = x_squares;
        partials[int64(blockIdx.x) * 2 + 1] = p_squares;
    }
}

extern "C" __global__ void __launch_bounds__(256, 4)
muon_normalize(FACTOR* factors, const accumulator<DTYPE>* x, const accumulator<DTYPE>* partials, const Matrices all, double eps) {
    __shared__ Real scratch[32];
    const Part part(all);
    const Real inverse = 1 / (norm(partials, part, all, 0, scratch) + Real(eps));
    for (int64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        const int64 at = part.matrix * all.size + i;
        factors[at] = round_to<FACTOR>(x[at] * inverse);
    }
}

extern "C" __global__ void __launch_bounds__(256, 4)
muon_apply(const FACTOR* factors, const accumulator<DTYPE>* partials, const Matrix* matrices, const double* scaling,
           const Matrices all, double average_rate, const float* lr32, const double* lr64, double lr) {
    __shared__ Real scratch[32];
    if (read_unscale(scaling) == 0) return;
    const Part part(all);
    const Matrix matrix = matrices[part.matrix];
    const Real length = norm(partials, part, all, 1, scratch);
    const Real keep = length > 0 ? sqrt(Real(all.rows)) / length : Real(1);
    const Real rate = Real(read_rate(lr32, lr64, lr));
    for (int64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        const Real p = load(matrix.param[i]) * keep - rate * load(factors[part.matrix * all.size + all.offset_in_x(i)]);
        matrix.param[i] = round_to<DTYPE>(p);
        if (matrix.copy) matrix.copy[i] = round_to<GRAD>(p);
        if (matrix.average) move_average(matrix.average[i], round_to<DTYPE>(p), Real(average_rate));
    }
}
