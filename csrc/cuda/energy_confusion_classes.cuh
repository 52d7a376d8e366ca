// On the GPU: rows by class, class means and scatters in one read of the batch, and the gradient's pass over the
// rows. The number of classes stays on the device; what is counted by class has room for N of them.
#pragma once

#include "../common/cuda.h"
#include "../common/energy_confusion.h"

// A pair that names no class of the batch must not be read, in release builds neither: "device-side assert
// triggered".
#undef NDEBUG
#include <cassert>

namespace robustdml::energy {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Sums of `value` over the block's threads, the same in all of them; in the same order at every run.
template <typename T>
__device__ __forceinline__ T block_total(T value) {
  __shared__ T of_warps[kWarps];
  value = warp_sum(value);
  __syncthreads(); // a former call's reads are done
  if (threadIdx.x % kWarp == 0) {
    of_warps[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  T total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    total += of_warps[w];
  }
  return total;
}

// One block: finds where classes begin among the sorted labels, counts them and the pairs that are summed.
__global__ void __launch_bounds__(kThreads)
    find_classes(const int64_t* sorted, int64_t rows, const int64_t* pairs, int64_t listed, int64_t* groups) {
  __shared__ int of_warps[kWarps];
  const Groups at{rows};
  int64_t* begins = groups + at.begins();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int64_t found = 0;
  for (int64_t start = 0; start < rows; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    const bool begin = i < rows && (i == 0 || sorted[i] != sorted[i - 1]);
    int before = begin ? 1 : 0; // becomes the count up to this thread
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int other = __shfl_up_sync(kAllLanes, before, offset);
      before += lane >= offset ? other : 0;
    }
    if (lane == kWarp - 1) {
      of_warps[warp] = before;
    }
    __syncthreads();
    int total = 0;
    for (int w = 0; w < kWarps; ++w) {
      before += w < warp ? of_warps[w] : 0;
      total += of_warps[w];
    }
    if (begin) {
      begins[found + before - 1] = i;
    }
    found += total;
    __syncthreads();
  }
  for (int64_t k = found + threadIdx.x; k <= rows; k += kThreads) {
    begins[k] = rows;
  }
  int64_t count = 0;
  for (int64_t p = threadIdx.x; p < listed; p += kThreads) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    assert(i >= 0 && i < found && j >= 0 && j < found);
    count += i != j;
  }
  count = block_total(count);
  if (threadIdx.x == 0) {
    groups[at.classes()] = found;
    groups[at.pairs()] = pairs ? count : found * (found - 1);
  }
}

// What a block needs to know of its class.
struct Class {
  int64_t begin, size, first;

  __device__ Class(const int64_t* groups, int64_t rows, int64_t k) {
    const Groups at{rows};
    begin = groups[at.begins() + k];
    size = groups[at.begins() + k + 1] - begin;
    first = groups[at.order() + begin];
  }
};

constexpr int kColumns = 128; // of a block of `moments`: the lanes of a warp, four each

// Block (class, chunk of columns): means relative to row 0 and, as offsets, to the class's first row, and this
// chunk's share of the scatter. Warps share out the rows. Summed relative to the class's own first row, in
// float64: see the CPU kernel.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads) moments(
    const scalar_t* __restrict__ x, int64_t rows, int64_t dimensions, const int64_t* __restrict__ groups,
    double* __restrict__ means, accumulate_t<scalar_t>* __restrict__ offsets, double* __restrict__ scatters,
    int chunks) {
  using T = accumulate_t<scalar_t>;
  constexpr int vectors = kColumns / kWarp;
  __shared__ double sums[kWarps][kColumns];
  const int64_t k = blockIdx.x;
  if (k >= groups[Groups{rows}.classes()]) {
    return;
  }
  const Class of(groups, rows, k);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t* order = groups + Groups{rows}.order() + of.begin;
  for (int chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
    const int64_t column = static_cast<int64_t>(chunk) * kColumns + lane;
    double base[vectors], sum[vectors] = {}, squares = 0;
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int64_t d = column + v * kWarp;
      base[v] = d < dimensions ? static_cast<double>(static_cast<T>(x[of.first * dimensions + d])) : 0.0;
    }
#pragma unroll 4
    for (int64_t i = warp; i < of.size; i += kWarps) {
      const scalar_t* row = x + order[i] * dimensions;
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        const int64_t d = column + v * kWarp;
        if (d < dimensions) {
          const double offset = static_cast<double>(static_cast<T>(row[d])) - base[v];
          sum[v] += offset;
          squares += offset * offset;
        }
      }
    }
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      sums[warp][lane + v * kWarp] = sum[v];
    }
    squares = block_total(squares); // a barrier too: `sums` is filled
    double mean_square = 0;
    const int64_t d = static_cast<int64_t>(chunk) * kColumns + threadIdx.x;
    if (threadIdx.x < kColumns && d < dimensions) {
      double offset = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        offset += sums[w][threadIdx.x];
      }
      offset /= static_cast<double>(of.size);
      mean_square = offset * offset;
      offsets[k * dimensions + d] = static_cast<T>(offset);
      const double first = static_cast<double>(static_cast<T>(x[of.first * dimensions + d]));
      means[k * dimensions + d] = offset + (first - static_cast<double>(static_cast<T>(x[d])));
    }
    mean_square = block_total(mean_square);
    if (threadIdx.x == 0) {
      scatters[k * chunks + chunk] = squares / static_cast<double>(of.size) - mean_square;
    }
  }
}

// The chunks' shares of the scatters, added up.
__global__ void __launch_bounds__(kThreads) join_scatters(
    const double* __restrict__ shares, int chunks, const int64_t* __restrict__ groups, int64_t rows,
    double* __restrict__ scatters) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k < groups[Groups{rows}.classes()]) {
    double sum = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      sum += shares[k * chunks + chunk];
    }
    scatters[k] = sum < 0 ? 0 : sum; // a NaN stays
  }
}

// gradient_i = scale_k·(x_i − first row of class k) + shift_k, times the incoming gradient. A warp a row, in the
// order of the classes.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 4) rows_from_classes(
    const scalar_t* __restrict__ x, int64_t rows, int64_t dimensions, const int64_t* __restrict__ groups,
    const double* __restrict__ scales, const accumulate_t<scalar_t>* __restrict__ shifts,
    const accumulate_t<scalar_t>* __restrict__ incoming, scalar_t* __restrict__ gradient) {
  using T = accumulate_t<scalar_t>;
  const Groups at{rows};
  const int64_t position = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (position >= rows) {
    return; // a whole warp
  }
  const int64_t row = groups[at.order() + position], classes = groups[at.classes()];
  const int64_t* begins = groups + at.begins();
  assert(row >= 0 && row < rows && classes > 0 && classes <= rows);
  const bool any = groups[at.pairs()] > 0;
  int64_t low = 0, high = classes; // the last class that begins at or before this position
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (begins[middle] <= position ? low : high) = middle;
  }
  const int64_t first = groups[at.order() + begins[low]];
  const double scale = any ? static_cast<double>(*incoming) * scales[low] : 0.0;
  const T factor = *incoming;
  for (int64_t d = threadIdx.x % kWarp; d < dimensions; d += kWarp) {
    const T offset = static_cast<T>(x[row * dimensions + d]) - static_cast<T>(x[first * dimensions + d]);
    // One product in float64: a logarithm's slope may lie below the range of float32.
    const T scaled = static_cast<T>(scale * static_cast<double>(offset));
    gradient[row * dimensions + d] =
        static_cast<scalar_t>(any ? scaled + factor * shifts[low * dimensions + d] : T(0));
  }
}

} // namespace robustdml::energy
