// First level of the backward sums, Σ dy and Σ dy·(x − μ), over the pieces of each channel and segment.
#pragma once

#include "distribution_norm_reduce.cuh"

namespace robustdml::norm {

// What the backward sums need beside the result. Σ dy·(x − μ) is found first, and multiplied by 1/√(σ² + eps) last.
template <typename scalar_t>
struct Gradients {
  using T = accumulate_t<scalar_t>;
  const scalar_t* __restrict__ dy;
  const scalar_t* __restrict__ x;
  const scalar_t* __restrict__ y; // the forward's output where it had a ReLU, or null
  const T* __restrict__ mean;     // [K, C]
};

template <typename T>
__device__ __forceinline__ void write_sums(
    const Result<T>& to, const Partition& parts, int64_t piece, int segment, int64_t channel, const T* variance,
    T eps, T sum_dy, T sum_product) {
  if (to.partial) {
    to.partial[(piece * to.channels + channel) * 2] = sum_dy;
    to.partial[(piece * to.channels + channel) * 2 + 1] = sum_product;
  } else {
    const int64_t at = (parts.first_segment + segment) * to.channels + channel;
    to.first[at] = sum_dy;
    to.second[at] = sum_product / sqrt(variance[at] + eps);
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) plane_sums(
    const Gradients<scalar_t> of, const Planes planes, const Partition parts,
    const accumulate_t<scalar_t>* __restrict__ variance, const accumulate_t<scalar_t> eps,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  const int64_t channel = blockIdx.x % planes.channels, index = blockIdx.x / planes.channels;
  const Piece piece = parts[index];
  const T mean = of.mean[(parts.first_segment + piece.segment) * planes.channels + channel];
  T sums[2] = {0, 0};
  Walk walk(planes, channel, piece.first + threadIdx.x);
#pragma unroll 2
  for (int64_t unit = piece.first + threadIdx.x; unit < piece.last; unit += kThreads) {
    const int64_t at = walk.offset * count;
    const Vector<scalar_t, count> dy = load<count>(of.dy + at), x = load<count>(of.x + at);
    Vector<scalar_t, count> y{};
    if (of.y) {
      y = load<count>(of.y + at);
    }
    walk.next();
    T first = 0, second = 0; // of these few values alone, so that long sums lose less
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const T gradient = of.y ? relu_gradient(dy[j], y[j]) : dy[j];
      first += gradient;
      second += gradient * (x[j] - mean);
    }
    sums[0] += first;
    sums[1] += second;
  }
  block_sum(sums);
  if (threadIdx.x == 0) {
    write_sums(result, parts, index, piece.segment, channel, variance, eps, sums[0], sums[1]);
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) column_sums(
    const Gradients<scalar_t> of, const Table table, const Partition parts,
    const accumulate_t<scalar_t>* __restrict__ variance, const accumulate_t<scalar_t> eps,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ T firsts[kThreads * count], seconds[kThreads * count];
  const Tile<count> tile(table);
  const Piece piece = parts[tile.index];
  T first[count] = {}, second[count] = {};
  if (tile.active) {
    T mean[count];
    const T* means = of.mean + (parts.first_segment + piece.segment) * table.channels;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      mean[j] = means[(tile.first_column + tile.mine + j) / table.width];
    }
#pragma unroll 2
    for (int64_t row = piece.first + threadIdx.y; row < piece.last; row += blockDim.y) {
      const int64_t at = row * table.columns + tile.first_column + tile.mine;
      const Vector<scalar_t, count> dy = load<count>(of.dy + at), x = load<count>(of.x + at);
      Vector<scalar_t, count> y{};
      if (of.y) {
        y = load<count>(of.y + at);
      }
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const T gradient = of.y ? relu_gradient(dy[j], y[j]) : dy[j];
        first[j] += gradient;
        second[j] += gradient * (x[j] - mean[j]);
      }
    }
  }
  const int stride = blockDim.x * count;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    firsts[threadIdx.y * stride + tile.mine + j] = first[j];
    seconds[threadIdx.y * stride + tile.mine + j] = second[j];
  }
  __syncthreads();
  auto add = [&](int, int place, int, T(&sums)[2]) {
    sums[0] += firsts[place];
    sums[1] += seconds[place];
  };
  auto write = [&](int64_t channel, int, T(&sums)[2]) {
    write_sums(result, parts, tile.index, piece.segment, channel, variance, eps, sums[0], sums[1]);
  };
  reduce_channels<T>(table, tile.first_column, tile.columns, stride, add, write);
}

} // namespace robustdml::norm
