// What the forward and the backward CUDA kernels of the learned similarity share: arguments, checks, dropout's draws.
#pragma once

#include "../common/cuda.h"
#include "../common/similarity.h"

namespace robustdml::similarity {

using namespace cuda;

// One side: half of the first layer, [count, H], and the draws of its rows, [words][draws][count].
template <typename T>
struct Items {
  const T* __restrict__ values;
  const uint32_t* __restrict__ draws;
  int count;
};

template <typename T>
struct Problem {
  Items<T> embeddings, prototypes;
  const T* __restrict__ weight; // [H]
  int hidden, words;
  T slope;
  Dropout dropout;
};

// One Philox call a thread. out: [words][draws][rows].
static __global__ void __launch_bounds__(256) draw_side(
    const int64_t* __restrict__ seed, Side side, Dropout dropout, int rows, int64_t calls, uint32_t* __restrict__ out) {
  const int64_t call = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (call >= calls) {
    return;
  }
  const int row = static_cast<int>(call % rows), blocks = dropout.blocks();
  const int64_t rest = call / rows;
  const int block = static_cast<int>(rest % blocks), word = static_cast<int>(rest / blocks);
  uint32_t words[kDraws];
  draw(words, static_cast<uint64_t>(*seed), side, static_cast<uint32_t>(row), static_cast<uint32_t>(word),
       static_cast<uint32_t>(block));
#pragma unroll
  for (int i = 0; i < kDraws; ++i) {
    const int index = block * kDraws + i;
    if (index < dropout.draws) {
      out[(static_cast<int64_t>(word) * dropout.draws + index) * rows + row] = words[i];
    }
  }
}

// The draws of all rows of one side; none without dropout.
inline std::optional<Tensor> draws_of(
    const Device& device, const Tensor& items, const std::optional<Tensor>& seed, Side side, const Dropout& dropout) {
  if (dropout.draws == 0 || items.numel() == 0) {
    return std::nullopt;
  }
  const int64_t rows = items.size(0), words = divide_up(items.size(1), kUnits);
  Tensor out = new_empty_like_type(items, {words, dropout.draws, rows}, ScalarType::Int);
  const int64_t calls = words * dropout.blocks() * rows;
  launch(
      device, draw_side, divide_up(calls, 256), 1, dim3(256), data<int64_t>(*seed), side, dropout,
      static_cast<int>(rows), calls, reinterpret_cast<uint32_t*>(mutable_data<int32_t>(out)));
  return out;
}

template <typename T>
Items<T> items_of(const Tensor& values, const std::optional<Tensor>& draws) {
  return {
      data<T>(values), reinterpret_cast<const uint32_t*>(data<int32_t>(draws)), static_cast<int>(values.size(0))};
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
      embeddings.size(0) <= INT32_MAX && prototypes.size(0) <= INT32_MAX && embeddings.size(1) <= INT32_MAX / 2, name,
      ": more than 2^31 - 1 rows");
  STD_TORCH_CHECK(
      dropped >= 0 && dropped < (1 << Dropout::kLength) &&
          (dropped == 0 || (seed && seed->numel() == 1 && seed->scalar_type() == ScalarType::Long)),
      name, ": expected 0 <= dropped < 65536, and for more than 0 one int64 seed");
  check_device(name, embeddings, {&prototypes, &weight});
  if (dropped > 0) {
    check_device(name, embeddings, seed);
  }
}

// `tensor` as `type`, rows one after the other.
inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  if (type == tensor.scalar_type()) {
    return as_contiguous(tensor);
  }
  Tensor other = new_empty_like_type(tensor, {tensor.size(0), tensor.size(1)}, type);
  torch::stable::copy_(other, tensor);
  return other;
}

// Calls body(zero of the type that sums are kept in, std::bool_constant of whether anything is dropped).
template <typename Body>
void dispatch_wide(ScalarType type, bool dropped, const Body& body) {
  if (type == ScalarType::Double) {
    dispatch_bool(dropped, [&](auto is_dropped) { body(double{}, is_dropped); });
  } else {
    dispatch_bool(dropped, [&](auto is_dropped) { body(float{}, is_dropped); });
  }
}

// The mask word of a pair from its sides' draws, which lie `first` and `second` apart.
__device__ __forceinline__ uint32_t mask_word(
    const Dropout& dropout, const uint32_t* a, int64_t first, const uint32_t* b, int64_t second) {
  uint32_t kept = ~0u;
  for (int i = 0; i < dropout.draws; ++i) {
    kept = keep(kept, mix(a[i * first] + b[i * second]), dropout.bit(i));
  }
  return kept;
}

} // namespace robustdml::similarity
