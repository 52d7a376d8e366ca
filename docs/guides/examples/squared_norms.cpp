// Squared length of every row.
#include "../common/parallel.h"
#include "../common/tensor.h"

namespace robustdml {
namespace {

Tensor squared_norms(Tensor rows) {
  STD_TORCH_CHECK(rows.dim() == 2, "squared_norms: expected rows [B, D]");
  const Tensor x = as_contiguous(rows);
  const int64_t count = x.size(0), dimensions = x.size(1);
  Tensor values = new_empty_like_type(x, {count}, accumulate_type(x.scalar_type()));
  dispatch_floating(x.scalar_type(), "squared_norms", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const scalar_t* from = data<scalar_t>(x);
    T* to = mutable_data<T>(values);
    parallel_tasks(count, dimensions, [&](int64_t row) {
      const scalar_t* own = from + row * dimensions;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < dimensions; ++d) {
        const T value = static_cast<T>(own[d]);
        sum += value * value;
      }
      to[row] = sum;
    });
  });
  return values;
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("squared_norms", TORCH_BOX(&robustdml::squared_norms));
}
