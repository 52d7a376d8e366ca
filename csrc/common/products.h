// PyTorch's own matrix product from inside a CUDA operator: the vendor's library, on the current stream, under the
// user's precision settings (TF32 or not), and safe to capture in a CUDA graph.
#pragma once

#include "tensor.h"

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

namespace robustdml {

// out = a·b for matrices of one dtype. `out` is written in place, whatever its strides. Autocast leaves it alone: only
// the functional form is on its list.
inline void matrix_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{
      torch::stable::detail::from(a), torch::stable::detail::from(b), torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  // What comes back is `out` again, and ours to let go.
  torch::stable::detail::to<Tensor>(stack[0]);
}

// Rows [begin, begin + count) of a matrix, as a view.
inline Tensor rows_of(const Tensor& matrix, int64_t begin, int64_t count) {
  Tensor whole = matrix;
  return torch::stable::narrow(whole, 0, begin, count);
}

inline Tensor transposed(const Tensor& matrix) {
  return torch::stable::transpose(matrix, 0, 1);
}

} // namespace robustdml
