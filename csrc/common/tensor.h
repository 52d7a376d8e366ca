// What every kernel needs of tensors, on LibTorch's stable ABI only: dtype dispatch, layouts, memory guards.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace robustdml {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type that sums are kept in: float64 for float64, float32 for everything shorter.
template <typename scalar_t>
using accumulate_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

inline ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename scalar_t>
struct Type {
  using type = scalar_t;
};

// Calls body(Type<scalar_t>{}) for the floating-point type of a tensor.
template <typename Body>
decltype(auto) dispatch_floating(ScalarType type, const char* name, Body&& body) {
  switch (type) {
    case ScalarType::Float:
      return body(Type<float>{});
    case ScalarType::Double:
      return body(Type<double>{});
    case ScalarType::Half:
      return body(Type<Half>{});
    case ScalarType::BFloat16:
      return body(Type<BFloat16>{});
    default:
      STD_TORCH_CHECK(false, name, ": no kernel for dtype ", torch::headeronly::toString(type));
  }
}

// Calls body(std::bool_constant) so that inner loops need no branch.
template <typename Body>
decltype(auto) dispatch_bool(bool value, Body&& body) {
  if (value) {
    return body(std::true_type{});
  }
  return body(std::false_type{});
}

template <typename scalar_t>
const scalar_t* data(const Tensor& tensor) {
  return static_cast<const scalar_t*>(tensor.const_data_ptr());
}

template <typename scalar_t>
const scalar_t* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const scalar_t*>(tensor->const_data_ptr()) : nullptr;
}

template <typename scalar_t>
scalar_t* mutable_data(const Tensor& tensor) {
  return static_cast<scalar_t*>(tensor.mutable_data_ptr());
}

inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) {
    return false;
  }
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d)) {
      return false;
    }
  }
  return true;
}

inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) {
    return false;
  }
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  auto strided = [&](int64_t d, int64_t stride) { return tensor.size(d) == 1 || tensor.stride(d) == stride; };
  return strided(1, 1) && strided(3, channels) && strided(2, channels * width) &&
      strided(0, channels * width * height);
}

// Every element once, samples one after the other: flat loops may run over such a tensor.
inline bool is_flat(const Tensor& tensor) {
  return tensor.is_contiguous() || is_channels_last(tensor);
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) {
      return false;
    }
  }
  return true;
}

// `tensor` in the memory order of `model`; a copy only where it lies differently.
inline Tensor in_layout_of(const Tensor& model, const Tensor& tensor) {
  if (same_strides(model, tensor)) {
    return tensor;
  }
  Tensor copy = torch::stable::empty_like(model);
  torch::stable::copy_(copy, tensor);
  return copy;
}

inline Tensor new_empty_like_type(const Tensor& model, std::vector<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(
      model, torch::headeronly::IntHeaderOnlyArrayRef(sizes.data(), sizes.size()), type);
}

} // namespace robustdml
