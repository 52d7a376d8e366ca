// What the proxy losses do to rows of embeddings and proxies: to unit length before the matrix products, and the gradient
// through that afterwards.
#pragma once

#include "../common/cuda.h"
#include "../common/proxy_loss.h"

namespace robustdml::proxy {

using namespace cuda;

constexpr int kWarps = 4; // of a block
constexpr int kThreads = kWarp * kWarps;

__device__ __forceinline__ int64_t warp_index() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
}

// u = x/‖x‖ of every row and 1/‖x‖; a warp a row.
template <typename scalar_t, typename T>
__global__ void __launch_bounds__(kThreads) unit_rows(
    const scalar_t* __restrict__ rows, T* __restrict__ unit, T* __restrict__ inverse, int64_t count, int64_t depth) {
  const int64_t row = warp_index();
  if (row >= count) {
    return; // a whole warp: a row of the block is one
  }
  const scalar_t* from = rows + row * depth;
  double sum = 0;
  for (int64_t k = threadIdx.x; k < depth; k += kWarp) {
    const double value = static_cast<double>(static_cast<T>(from[k]));
    sum += value * value;
  }
  const T share = inverse_norm<T>(warp_sum(sum));
  for (int64_t k = threadIdx.x; k < depth; k += kWarp) {
    unit[row * depth + k] = static_cast<T>(from[k]) * share;
  }
  if (threadIdx.x == 0) {
    inverse[row] = share;
  }
}

// (d − u·⟨u, d⟩)/‖x‖: the gradient towards x of what has gradient d towards u; a warp a row.
template <typename scalar_t, typename T>
__global__ void __launch_bounds__(kThreads) finish_rows(
    const T* __restrict__ unit, const T* __restrict__ gradient, const T* __restrict__ inverse,
    scalar_t* __restrict__ out, int64_t count, int64_t depth) {
  const int64_t row = warp_index();
  if (row >= count) {
    return; // a whole warp
  }
  const T *u = unit + row * depth, *d = gradient + row * depth;
  T along = 0;
  for (int64_t k = threadIdx.x; k < depth; k += kWarp) {
    along += u[k] * d[k];
  }
  along = warp_sum(along);
  const T share = inverse[row];
  for (int64_t k = threadIdx.x; k < depth; k += kWarp) {
    out[row * depth + k] = static_cast<scalar_t>((d[k] - u[k] * along) * share);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) add_to(T* __restrict__ total, const T* __restrict__ part, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) {
    total[i] += part[i];
  }
}

} // namespace robustdml::proxy
