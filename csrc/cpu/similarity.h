// The two sides of the learned similarity as its CPU kernels see them. One side's items lie in the lanes of vectors,
// the other's are taken row by row: x = P + E and its dropout are symmetric in the two, so the larger side takes the
// lanes.
#pragma once

#include "../common/parallel.h"
#include "../common/tensor.h"
#include "gemm.h"
#include "similarity_transpose.h"
#include "similarity_words.h"

#include <algorithm>

namespace robustdml::similarity {

using gemm::Buffer;
using gemm::round_up;
using simd::kLanes;

// Rows and vectors of lanes of one register block: their sums and mask words share the registers.
constexpr int kRows = 4, kVectors = 2;
template <typename T>
constexpr int64_t kPanel = kVectors * kLanes<T>;

// One side: half of the first layer, [count, H], at `values`.
template <typename T>
struct Items {
  const T* values;
  int64_t count;
  Side side;
};

template <typename T>
struct Problem {
  Items<T> rows, lanes;
  const T* weight; // [H]
  int64_t hidden;
  T slope;
  Dropout dropout;
  uint64_t seed;
  // Where the pair (row r, lane l) lies in a matrix [B, C].
  int64_t row_stride, lane_stride;

  int64_t words() const {
    return (hidden + kUnits - 1) / kUnits;
  }
  // Units of mask word `word`.
  int64_t units(int64_t word) const {
    return std::min<int64_t>(kUnits, hidden - word * kUnits);
  }
};

// out[h·width + i] = component first_unit + h of item first + i, zero past the last item.
template <typename T>
void transpose_items(
    const Items<T>& items, int64_t hidden, int64_t first, int64_t width, int64_t first_unit, int64_t units, T* out) {
  const int64_t count = std::clamp<int64_t>(items.count - first, 0, width);
  transpose(items.values + first * hidden + first_unit, hidden, count, units, out, width);
  for (int64_t h = 0; count < width && h < units; ++h) {
    std::fill(out + h * width + count, out + (h + 1) * width, T(0));
  }
}

// Sides, strides and dropout of a call; the larger side takes the lanes.
template <typename T>
Problem<T> problem(
    const Tensor& embeddings, const Tensor& prototypes, const Tensor& weight, const std::optional<Tensor>& seed,
    double slope, int64_t dropped) {
  const Items<T> e{data<T>(embeddings), embeddings.size(0), Side::embeddings};
  const Items<T> c{data<T>(prototypes), prototypes.size(0), Side::prototypes};
  const bool swap = e.count > c.count;
  return {
      swap ? c : e, swap ? e : c, data<T>(weight), embeddings.size(1), static_cast<T>(slope), Dropout(dropped),
      dropped ? static_cast<uint64_t>(*data<int64_t>(*seed)) : 0, swap ? 1 : c.count, swap ? c.count : 1};
}

inline void check(
    const char* name, const Tensor& embeddings, const Tensor& prototypes, const Tensor& weight,
    const std::optional<Tensor>& seed, int64_t dropped) {
  STD_TORCH_CHECK(
      embeddings.dim() == 2 && prototypes.dim() == 2 && embeddings.size(1) == prototypes.size(1) &&
          embeddings.scalar_type() == prototypes.scalar_type() && weight.dim() == 1 &&
          weight.size(0) == embeddings.size(1) && weight.scalar_type() == accumulate_type(embeddings.scalar_type()),
      name, ": expected embeddings [B, H], prototypes [C, H] of one dtype and weight [H] in float32 or float64");
  STD_TORCH_CHECK(
      embeddings.size(0) <= INT32_MAX && prototypes.size(0) <= INT32_MAX, name, ": more than 2^31 - 1 rows");
  STD_TORCH_CHECK(
      dropped >= 0 && dropped < (1 << Dropout::kLength) &&
          (dropped == 0 || (seed && seed->numel() == 1 && seed->scalar_type() == ScalarType::Long && seed->is_cpu())),
      name, ": expected 0 <= dropped < 65536, and for more than 0 one int64 seed");
}

// In the type that sums are kept in, rows one after the other.
inline Tensor widened(const Tensor& tensor) {
  const ScalarType type = accumulate_type(tensor.scalar_type());
  if (type == tensor.scalar_type()) {
    return as_contiguous(tensor);
  }
  Tensor wide = new_empty_like_type(tensor, {tensor.size(0), tensor.size(1)}, type);
  torch::stable::copy_(wide, tensor);
  return wide;
}

inline Tensor narrowed(const Tensor& tensor, ScalarType type) {
  if (type == tensor.scalar_type()) {
    return tensor;
  }
  Tensor narrow = new_empty_like_type(tensor, {tensor.size(0), tensor.size(1)}, type);
  torch::stable::copy_(narrow, tensor);
  return narrow;
}

template <typename Body>
void dispatch_wide(ScalarType type, const Body& body) {
  if (type == ScalarType::Double) {
    body(double{});
  } else {
    body(float{});
  }
}

} // namespace robustdml::similarity
