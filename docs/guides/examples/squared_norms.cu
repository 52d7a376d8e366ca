// Squared length of every row: a warp a row.
#include "../common/cuda.h"

namespace robustdml {
namespace {

constexpr int kRowsOfABlock = 4;

template <typename scalar_t>
__global__ void squared_norms_kernel(
    const scalar_t* rows, accumulate_t<scalar_t>* values, int64_t count, int64_t dimensions) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsOfABlock + threadIdx.y;
  if (row >= count) {
    return;
  }
  accumulate_t<scalar_t> sum = 0;
  for (int64_t d = threadIdx.x; d < dimensions; d += cuda::kWarp) {
    const accumulate_t<scalar_t> value = static_cast<accumulate_t<scalar_t>>(rows[row * dimensions + d]);
    sum += value * value;
  }
  sum = cuda::warp_sum(sum);
  if (threadIdx.x == 0) {
    values[row] = sum;
  }
}

Tensor squared_norms(Tensor rows) {
  STD_TORCH_CHECK(rows.dim() == 2, "squared_norms: expected rows [B, D]");
  const Tensor x = as_contiguous(rows);
  const cuda::Device device(x);
  const int64_t count = x.size(0), dimensions = x.size(1);
  Tensor values = new_empty_like_type(x, {count}, accumulate_type(x.scalar_type()));
  dispatch_floating(x.scalar_type(), "squared_norms", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    cuda::launch(
        device, squared_norms_kernel<scalar_t>, cuda::divide_up(count, kRowsOfABlock), 1,
        dim3(cuda::kWarp, kRowsOfABlock), data<scalar_t>(x), mutable_data<T>(values), count, dimensions);
  });
  return values;
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("squared_norms", TORCH_BOX(&robustdml::squared_norms));
}
