// Group normalization (Wu and He 2018) of x (N, pixels, C) over the pixels and the D = C / groups channels of each image's groups;
// with one group and one pixel it is layer normalization (Ba, Kiros and Hinton 2016).
//
//   y = gamma * xhat + beta,   xhat = (x - mean) * inv_std,   inv_std = 1 / sqrt(var + eps)
//   dx = inv_std * (g - mean of g - xhat * mean of (g * xhat)),   g = gamma * dy
//   dgamma = sum of dy * xhat,   dbeta = sum of dy, over images and pixels
//
// forward      _forward: a block for each group of each image; it reads its x for the mean, for the squared deviations and for y
// backward     _backward_sums, _backward_finish: dgamma and dbeta by columns; _backward_dx: a block for each image and group
//
// All sums have a fixed order. mean and inv_std are (N, groups); they, gamma, beta and the parameters' gradients have the
// accumulator's dtype. y may be x; dx may be dy or x. y and dy may be slices of a wider volume's channels: their pixels are `pitch`
// numbers apart.
//
// Macros: DTYPE; WIDTH (column_reduce.cuh), used only by _backward_sums: a divisor of pixels * C. Limits: N * groups below 2^31.
// Floor, in sizeof(DTYPE) bytes and in FLOPs per number: forward 2 (4 if a group outgrows the caches) and 8; backward 5 (7) and 18.
#include "column_reduce.cuh"
#include "reduce.cuh"
#include "norm_gradient_sums.cuh"

// The part of an image that a block works on: `width` neighboring channels of each pixel.
struct Group {
    int64 begin, pitched;  // its first number, in x and in an array with a pitch
    int64 pixels, pitch;
    int32 channels, width, first;  // first: its first channel

    __device__ Group(int64 pixels, int32 channels, int32 groups, int64 pitch)
        : pixels(pixels), pitch(pitch), channels(channels), width(channels / groups) {
        const int64 first_pixel = int64(blockIdx.x / groups) * pixels;
        first = int32(blockIdx.x % groups) * width;
        begin = first_pixel * channels + first;
        pitched = first_pixel * pitch + first;
    }
    __device__ Real count() const { return Real(pixels) * width; }

    // Calls visit(index in x, index in an array with the pitch, channel in the group); `columns` neighboring threads share one
    // pixel.
    template <class Visit>
    __device__ __forceinline__ void each(int32 columns, Visit visit) const {
        const int32 rows = int32(blockDim.x) / columns;
        for (int64 pixel = int32(threadIdx.x) / columns; pixel < pixels; pixel += rows)
            for (int32 c = int32(threadIdx.x) % columns; c < width; c += columns)
                visit(begin + pixel * channels + c, pitched + pixel * pitch + c, c);
    }
};

extern "C" __global__ void __launch_bounds__(256, 2)
group_norm_forward(DTYPE* y, Real* mean, Real* inv_std, const DTYPE* x, const Real* gamma, const Real* beta, double eps,
                   int64 pixels, int32 channels, int32 groups, int32 columns, int64 y_pitch) {
    __shared__ Real scratch[32];
    const Group group(pixels, channels, groups, y_pitch);
    Real sum = 0, squares = 0;
    group.each(columns, [&](int64 i, int64, int32) { sum += load(x[i]); });
    const Real center = reduce_block(sum, Sum<Real>{}, scratch) / group.count();
    group.each(columns, [&](int64 i, int64, int32) { squares += (load(x[i]) - center) * (load(x[i]) - center); });
    const Real root = 1 / sqrt(reduce_block(squares, Sum<Real>{}, scratch) / group.count() + Real(eps));
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = center;
        inv_std[blockIdx.x] = root;
    }
    gamma += group.first;
    beta += group.first;
    group.each(columns, [&](int64 i, int64 to, int32 c) {
        y[to] = round_to<DTYPE>((load(x[i]) - center) * root * gamma[c] + beta[c]);
    });
}

extern "C" __global__ void __launch_bounds__(256, 2)
group_norm_backward_dx(DTYPE* dx, const DTYPE* dy, const DTYPE* x, const Real* gamma, const Real* mean, const Real* inv_std,
                       int64 pixels, int32 channels, int32 groups, int32 columns, int64 dy_pitch) {
    __shared__ Real scratch[32];
    const Group group(pixels, channels, groups, dy_pitch);
    const Real center = mean[blockIdx.x], root = inv_std[blockIdx.x];
    gamma += group.first;
    Real sum = 0, product = 0;
    group.each(columns, [&](int64 i, int64 from, int32 c) {
        const Real g = gamma[c] * load(dy[from]);
        sum += g;
        product += g * (load(x[i]) - center) * root;
    });
    const Real shift = reduce_block(sum, Sum<Real>{}, scratch) / group.count();
    const Real slope = reduce_block(product, Sum<Real>{}, scratch) / group.count();
    group.each(columns, [&](int64 i, int64 from, int32 c) {
        const Real xhat = (load(x[i]) - center) * root;
        dx[i] = round_to<DTYPE>(root * (gamma[c] * load(dy[from]) - shift - xhat * slope));
    });
}

struct Products {
    struct Packs {
        Numbers dy, x;
        int32 first_group;  // of the image, among the groups of all images
    };
    const DTYPE* dy;
    const DTYPE* x;
    const Real* mean;
    const Real* inv_std;
    PitchedPacks dy_packs;
    int64 packs_an_image;
    int32 groups;
    int32 group[WIDTH];  // of each number of a pack, counted within an image

    __device__ Packs read(int64 pack, int64 step) const {
        const int32 first_group = int32(pack / packs_an_image) * groups;
        return {reinterpret_cast<const Numbers*>(dy)[dy_packs.at(step)], reinterpret_cast<const Numbers*>(x)[pack], first_group};
    }
    __device__ Sums value(const Packs& packs, int index) const {
        const Real gradient = load(packs.dy.at[index]);
        const int32 at = packs.first_group + group[index];
        return {gradient, gradient * (load(packs.x.at[index]) - mean[at]) * inv_std[at]};
    }
    __device__ Sums single(int64, int) const { return {}; }  // WIDTH divides the size
};

struct Gradients {
    Real* dgamma;
    Real* dbeta;
    bool accumulate;

    __device__ void operator()(int32 c, const Sums& total) const {
        dgamma[c] = (accumulate ? dgamma[c] : Real(0)) + total.product;
        dbeta[c] = (accumulate ? dbeta[c] : Real(0)) + total.dy;
    }
};

extern "C" __global__ void __launch_bounds__(256, 1)
group_norm_backward_sums(Real* dgamma, Real* dbeta, Sums* partials, const DTYPE* dy, const DTYPE* x, const Real* mean,
                         const Real* inv_std, int64 packs_an_image, int32 groups, bool accumulate, Columns columns,
                         int64 dy_pitch) {
    Products products{dy, x, mean, inv_std, PitchedPacks(columns, dy_pitch), packs_an_image, groups, {}};
    Position(columns).find_columns(products.group, columns.channels);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) products.group[j] /= columns.channels / groups;
    column_reduce(partials, columns, products, Gradients{dgamma, dbeta, accumulate});
}

extern "C" __global__ void __launch_bounds__(256)
group_norm_backward_finish(Real* dgamma, Real* dbeta, const Sums* partials, bool accumulate, int32 chunks, int32 channels) {
    column_finish(partials, chunks, channels, Gradients{dgamma, dbeta, accumulate});
}
