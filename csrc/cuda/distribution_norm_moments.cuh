// First level of the statistics: moments of the pieces of each channel and segment. A piece takes them of x − shift, its
// first value: where the mean is large, the type of the sums could not tell the means of a few values apart.
#pragma once

#include "distribution_norm_reduce.cuh"

namespace robustdml::norm {

template <typename T>
__device__ __forceinline__ void write_moments(
    const Result<T>& to, const Partition& parts, int64_t piece, int segment, int64_t channel,
    const Moments<T>& shifted, T shift) {
  const Moments<double> moments{shifted.count, double(shift) + shifted.mean, shifted.m2};
  if (to.partial) {
    to.partial[(piece * to.channels + channel) * 2] = moments.mean;
    to.partial[(piece * to.channels + channel) * 2 + 1] = moments.m2;
  } else {
    write_moments(to, (parts.first_segment + segment) * to.channels + channel, moments);
  }
}

// merge() of a set that may be empty: its mean may be any number, whose square must not overflow.
template <typename T>
__device__ __forceinline__ Moments<T> merge_any(const Moments<T>& a, const Moments<T>& b) {
  return a.count == T(0) ? b : b.count == T(0) ? a : merge(a, b);
}

template <typename T>
__device__ __forceinline__ Moments<T> shuffle_down(const Moments<T>& m, int offset) {
  return {
      __shfl_down_sync(kAllLanes, m.count, offset), __shfl_down_sync(kAllLanes, m.mean, offset),
      __shfl_down_sync(kAllLanes, m.m2, offset)};
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) plane_moments(
    const scalar_t* __restrict__ x, const Planes planes, const Partition parts,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ Moments<T> of_warps[kThreads / kWarp];
  const int64_t channel = blockIdx.x % planes.channels, index = blockIdx.x / planes.channels;
  const Piece piece = parts[index];
  const bool any = piece.first < piece.last;
  const T shift = any ? static_cast<T>(x[Walk(planes, channel, piece.first).offset * count]) : T(0);
  Moments<T> moments{0, 0, 0};
  Walk walk(planes, channel, piece.first + threadIdx.x);
  for (int64_t unit = piece.first + threadIdx.x; unit < piece.last; unit += kAtOnce * kThreads) {
    Vector<scalar_t, count> values[kAtOnce];
    int valid = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (unit + u * kThreads < piece.last) {
        values[u] = load<count>(x + walk.offset * count);
        walk.next();
        ++valid;
      }
    }
    // Moments of these values by two looks at registers, around their mean: no cancellation, and one division.
    T sum = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int j = 0; j < count; ++j) {
        sum += u < valid ? values[u][j] - shift : T(0);
      }
    }
    const T number = static_cast<T>(valid * count), guess = sum / number;
    T first = 0, second = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const T centered = u < valid ? values[u][j] - shift - guess : T(0);
        first += centered;
        second += centered * centered;
      }
    }
    moments = merge_any(moments, from_sums(number, guess, first, second));
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    moments = merge_any(moments, shuffle_down(moments, offset));
  }
  if (threadIdx.x % kWarp == 0) {
    of_warps[threadIdx.x / kWarp] = moments;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / kWarp; ++w) {
      moments = merge_any(moments, of_warps[w]);
    }
    write_moments(result, parts, index, piece.segment, channel, moments, shift);
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) column_moments(
    const scalar_t* __restrict__ x, const Table table, const Partition parts,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ T means[kThreads * count], m2s[kThreads * count];
  const Tile<count> tile(table);
  const Piece piece = parts[tile.index];
  const int64_t step = blockDim.y;
  T mean[count] = {}, m2[count] = {}, number = 0;
  const scalar_t* first_row = x + piece.first * table.columns + tile.first_column;
  const int64_t rows = piece.last - piece.first;
  if (tile.active && rows > 0) {
    const scalar_t* column = x + tile.first_column + tile.mine;
    T shift[count];
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const int in_tile = tile.mine + j, width = static_cast<int>(table.width);
      shift[j] = static_cast<T>(first_row[in_tile / width * width]); // one for all columns of a channel
    }
    for (int64_t row = piece.first + threadIdx.y; row < piece.last; row += kAtOnce * step) {
      Vector<scalar_t, count> values[kAtOnce];
      int valid = 0;
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (row + u * step < piece.last) {
          values[u] = load<count>(column + (row + u * step) * table.columns);
          ++valid;
        }
      }
      // As in plane_moments, for each column; the number of values is the same for all of them.
      const T inverse = T(1) / static_cast<T>(valid), before = number;
      number += static_cast<T>(valid);
      const T share = static_cast<T>(valid) / number;
#pragma unroll
      for (int j = 0; j < count; ++j) {
        T sum = 0, first = 0, second = 0;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          sum += u < valid ? values[u][j] - shift[j] : T(0);
        }
        const T guess = sum * inverse;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const T centered = u < valid ? values[u][j] - shift[j] - guess : T(0);
          first += centered;
          second += centered * centered;
        }
        const Moments<T> few = from_sums(static_cast<T>(valid), guess, first, second);
        const T delta = before == T(0) ? T(0) : few.mean - mean[j];
        mean[j] = before == T(0) ? few.mean : mean[j] + delta * share;
        m2[j] += few.m2 + delta * delta * (before * share);
      }
    }
  }
  const int stride = blockDim.x * count;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    means[threadIdx.y * stride + tile.mine + j] = mean[j];
    m2s[threadIdx.y * stride + tile.mine + j] = m2[j];
  }
  __syncthreads();
  // Around the first thread row's mean, which is near all the others.
  auto add = [&](int y, int place, int from, T(&sums)[2]) {
    if (y < rows) {
      const T of_thread = static_cast<T>((rows - y + step - 1) / step), delta = means[place] - means[from];
      sums[0] += of_thread * delta;
      sums[1] += m2s[place] + of_thread * delta * delta;
    }
  };
  auto write = [&](int64_t channel, int from, T(&sums)[2]) {
    const T total = static_cast<T>(rows * table.width), shift = rows > 0 ? static_cast<T>(first_row[from]) : T(0);
    write_moments(
        result, parts, tile.index, piece.segment, channel, from_sums(total, means[from], sums[0], sums[1]), shift);
  };
  reduce_channels<T>(table, tile.first_column, tile.columns, stride, add, write);
}

} // namespace robustdml::norm
