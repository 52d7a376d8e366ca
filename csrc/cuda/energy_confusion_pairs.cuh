// On the GPU: from the moments of the classes to the loss and to what each class pulls on its rows, in float64.
// Distances between means are by differences, not products: exact for classes close together far from the others.
#pragma once

#include "energy_confusion_classes.cuh"

namespace robustdml::energy {

// What all kernels of this file read and write. Pulls are kept in `shifts` while they are summed.
template <typename T>
struct Problem {
  const int64_t* __restrict__ groups;
  const double* __restrict__ means;    // [N, D] of classes, relative to row 0
  const T* __restrict__ offsets;       // [N, D] of classes, relative to their first rows
  const double* __restrict__ scatters; // [N] of classes
  double* __restrict__ values;         // [N] of classes: their shares of the loss
  double* __restrict__ scales;         // [N] of classes, or null: no gradient wanted
  T* __restrict__ shifts;              // [N, D] of classes
  int64_t rows, dimensions;
  bool logarithmic, mean;

  __device__ int64_t classes() const {
    return groups[Groups{rows}.classes()];
  }
  // The weight of a pair in the loss.
  __device__ double unit() const {
    const int64_t pairs = groups[Groups{rows}.pairs()];
    return mean && pairs > 0 ? 1.0 / static_cast<double>(pairs) : 1.0;
  }
  __device__ double value(double energy) const {
    return logarithmic ? log1p(energy) : energy;
  }
  __device__ double slope(double energy) const {
    return logarithmic ? 1.0 / (1.0 + energy) : 1.0;
  }
  // From slope s_k and pull t_k (column d) to ∂loss/∂x = unit·(2/N_k)·(s_k·(x − μ_k) + t_k), relative to the first
  // row.
  __device__ double share(int64_t k) const {
    return 2 * unit() / static_cast<double>(Class(groups, rows, k).size);
  }
  __device__ void finish(int64_t k, double share, double slope, double pull, int64_t d) const {
    const int64_t at = k * dimensions + d;
    shifts[at] = static_cast<T>(share * (pull - slope * static_cast<double>(offsets[at])));
  }
};

// The mean of the class means: a warp 32 columns, warps share out the classes.
__global__ void __launch_bounds__(kThreads) mean_of_means(
    const double* __restrict__ means, const int64_t* __restrict__ groups, int64_t rows, int64_t dimensions,
    double* __restrict__ center) {
  __shared__ double sums[kWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t d = static_cast<int64_t>(blockIdx.x) * kWarp + lane, classes = groups[Groups{rows}.classes()];
  double sum = 0;
  for (int64_t k = warp; k < classes && d < dimensions; k += kWarps) {
    sum += means[k * dimensions + d];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp == 0 && d < dimensions) {
    double total = 0;
    for (int w = 0; w < kWarps; ++w) {
      total += sums[w][lane];
    }
    center[d] = total / static_cast<double>(classes);
  }
}

// All pairs of the plain form, a block a class: s = 2(C − 1), t = 2C·(μ_k − m), see the CPU kernel.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    all_plain(const Problem<T> p, const double* __restrict__ center) {
  const int64_t k = blockIdx.x, classes = p.classes();
  if (k >= classes) {
    return;
  }
  const double all = static_cast<double>(classes), slope = 2 * (all - 1), share = p.share(k);
  double square = 0;
  for (int64_t d = threadIdx.x; d < p.dimensions; d += kThreads) {
    const double offset = p.means[k * p.dimensions + d] - center[d];
    square += offset * offset;
    if (p.scales) {
      p.finish(k, share, slope, 2 * all * offset, d);
    }
  }
  square = block_total(square);
  if (threadIdx.x == 0) {
    p.values[k] = 2 * ((all - 1) * p.scatters[k] + all * square);
    if (p.scales) {
      p.scales[k] = share * slope;
    }
  }
}

constexpr int kHeight = 4, kWidth = 64; // of a rectangle of class pairs, one a thread
static_assert(kHeight * kWidth == kThreads);
constexpr int kDepth = 32; // columns of the means that are in shared memory at a time

// All pairs of the logarithmic form, a block for four classes: rectangle after rectangle of pairs, distances
// first, then what those pairs pull. A thread keeps its columns of the pulls, so nothing is summed by two.
template <typename T>
__global__ void __launch_bounds__(kThreads, 2) all_logarithms(const Problem<T> p) {
  __shared__ double own[kHeight][kDepth], others[kWidth][kDepth + 1], slopes[kHeight][kWidth];
  __shared__ double totals[kHeight];
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kHeight, classes = p.classes();
  if (begin >= classes) {
    return;
  }
  const int i = threadIdx.x / kWidth, j = threadIdx.x % kWidth;
  const int height = static_cast<int>(min(static_cast<int64_t>(kHeight), classes - begin));
  double value = 0;
  if (threadIdx.x < kHeight) {
    totals[threadIdx.x] = 0;
  }
  for (int64_t column = 0; column < classes; column += kWidth) {
    const int width = static_cast<int>(min(static_cast<int64_t>(kWidth), classes - column));
    double square = 0;
    for (int64_t depth = 0; depth < p.dimensions; depth += kDepth) {
      __syncthreads();
      for (int e = threadIdx.x; e < (kHeight + kWidth) * kDepth; e += kThreads) {
        const int row = e / kDepth, d = e % kDepth;
        const bool left = row < kHeight;
        const int64_t k = left ? begin + row : column + row - kHeight;
        const double mean = k < classes && depth + d < p.dimensions ? p.means[k * p.dimensions + depth + d] : 0.0;
        (left ? own[row][d] : others[row - kHeight][d]) = mean;
      }
      __syncthreads();
#pragma unroll 8
      for (int d = 0; d < kDepth; ++d) {
        const double difference = own[i][d] - others[j][d];
        square += difference * difference;
      }
    }
    double slope = 0;
    if (i < height && j < width && begin + i != column + j) {
      const double energy = p.scatters[begin + i] + p.scatters[column + j] + square;
      value += p.value(energy);
      slope = p.slope(energy);
    }
    if (!p.scales) {
      continue;
    }
    slopes[i][j] = slope;
    __syncthreads();
    if (threadIdx.x < kHeight) {
      for (int other = 0; other < kWidth; ++other) {
        totals[threadIdx.x] += slopes[threadIdx.x][other];
      }
    }
    for (int64_t d = threadIdx.x; d < p.dimensions; d += kThreads) {
      double mine[kHeight], pull[kHeight] = {};
#pragma unroll
      for (int row = 0; row < kHeight; ++row) {
        mine[row] = row < height ? p.means[(begin + row) * p.dimensions + d] : 0.0;
      }
      for (int other = 0; other < width; ++other) {
        const double mean = p.means[(column + other) * p.dimensions + d];
#pragma unroll
        for (int row = 0; row < kHeight; ++row) {
          pull[row] += slopes[row][other] * (mine[row] - mean);
        }
      }
#pragma unroll
      for (int row = 0; row < kHeight; ++row) {
        if (row < height) {
          T& sum = p.shifts[(begin + row) * p.dimensions + d];
          sum = static_cast<T>((column ? static_cast<double>(sum) : 0.0) + pull[row]);
        }
      }
    }
  }
  value = block_total(value); // a barrier too: `totals` are complete
  if (threadIdx.x < kHeight && threadIdx.x < height) {
    p.values[begin + threadIdx.x] = threadIdx.x == 0 ? value : 0.0;
  }
  for (int row = 0; p.scales && row < height; ++row) {
    const int64_t k = begin + row;
    const double slope = 2 * totals[row], share = p.share(k); // of (I, J) and of (J, I)
    for (int64_t d = threadIdx.x; d < p.dimensions; d += kThreads) {
      p.finish(k, share, slope, 2 * static_cast<double>(p.shifts[k * p.dimensions + d]), d);
    }
    if (threadIdx.x == 0) {
      p.scales[k] = share * slope;
    }
  }
}

// Listed pairs, a block a class: it looks through the list, 32 pairs a warp at once, for those it is part of.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    listed_pairs(const Problem<T> p, const int64_t* __restrict__ pairs, int64_t count) {
  const int64_t k = blockIdx.x;
  if (k >= p.classes()) {
    return;
  }
  const int lane = threadIdx.x % kWarp;
  const double* own = p.means + k * p.dimensions;
  double value = 0, slopes = 0;
  for (int64_t d = threadIdx.x; p.scales && d < p.dimensions; d += kThreads) {
    p.shifts[k * p.dimensions + d] = T(0);
  }
  for (int64_t start = 0; start < count; start += kWarp) {
    // Every warp sees the same pairs, so the block goes through them together.
    const int64_t index = start + lane;
    const int64_t first = index < count ? pairs[2 * index] : -1;
    const int64_t second = index < count ? pairs[2 * index + 1] : -1;
    const bool found = first != second && (first == k || second == k);
    for (unsigned left = __ballot_sync(kAllLanes, found); left; left &= left - 1) {
      const int source = __ffs(static_cast<int>(left)) - 1;
      const int64_t i = __shfl_sync(kAllLanes, first, source), j = __shfl_sync(kAllLanes, second, source);
      const double* other = p.means + (i == k ? j : i) * p.dimensions;
      double square = 0;
      for (int64_t d = threadIdx.x; d < p.dimensions; d += kThreads) {
        const double difference = own[d] - other[d];
        square += difference * difference;
      }
      // The sum of the smaller number first, so that both classes see the same energy.
      const double energy = p.scatters[min(i, j)] + p.scatters[max(i, j)] + block_total(square);
      const double slope = p.slope(energy);
      value += i == k ? p.value(energy) : 0.0;
      slopes += slope;
      for (int64_t d = threadIdx.x; p.scales && d < p.dimensions; d += kThreads) {
        T& sum = p.shifts[k * p.dimensions + d];
        sum = static_cast<T>(static_cast<double>(sum) + slope * (own[d] - other[d]));
      }
    }
  }
  const double share = p.share(k);
  for (int64_t d = threadIdx.x; p.scales && d < p.dimensions; d += kThreads) {
    p.finish(k, share, slopes, static_cast<double>(p.shifts[k * p.dimensions + d]), d);
  }
  if (threadIdx.x == 0) {
    p.values[k] = value;
    if (p.scales) {
      p.scales[k] = share * slopes;
    }
  }
}

// One block: the loss from its shares.
template <typename T>
__global__ void __launch_bounds__(kThreads) add_values(const Problem<T> p, T* loss) {
  double sum = 0;
  const bool any = p.groups[Groups{p.rows}.pairs()] > 0;
  for (int64_t k = threadIdx.x; any && k < p.classes(); k += kThreads) {
    sum += p.values[k];
  }
  sum = block_total(sum);
  if (threadIdx.x == 0) {
    *loss = static_cast<T>(any ? sum * p.unit() : 0.0);
  }
}

} // namespace robustdml::energy
