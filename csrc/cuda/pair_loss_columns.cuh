// What columns need to know of all their anchors, carried on from strip to strip in order. A warp's lanes lie along a
// row, its block's warps share the rows of the strip.
#pragma once

#include "pair_loss_forward.cuh"

namespace robustdml::pair {

constexpr int kColumnWarps = 8;

// Calls body(row of the strip, value) for the rows of this thread's column, if it has one.
template <typename T, typename Body>
__device__ __forceinline__ void each_of_column(const Strip<T>& strip, int column, const Body& body) {
  if (column < strip.columns) {
    for (int r = threadIdx.y; r < strip.rows; r += kColumnWarps) {
      body(r, strip.row(r)[column]);
    }
  }
}

// The sum over the threads of a column, valid in its first; all threads must call.
template <typename T>
__device__ __forceinline__ T sum_of_column(T value) {
  __shared__ T of_warps[kColumnWarps][kWarp];
  __syncthreads();
  of_warps[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < kColumnWarps; ++w) {
    sum += of_warps[w][threadIdx.x];
  }
  return sum;
}

// Lifted structure with a reference: L'_p = log Σ_l exp(neg_margin − d_lp) over anchors of other labels; the maximum
// and the sum so far are kept in statistics 2 and 3, which have no other use.
template <typename T>
__global__ void __launch_bounds__(kColumnWarps * kWarp)
    column_log_sums(const Strip<T> strip, const Parameters<T> p, const Results results) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  __shared__ T of_warps[kColumnWarps][kWarp];
  const int column = static_cast<int>(blockIdx.x) * kWarp + threadIdx.x;
  const bool real = column < strip.columns;
  const int64_t label = real ? strip.column_labels[column] : 0, first_row = column - strip.own - strip.first;
  auto each = [&](auto body) {
    each_of_column(strip, column, [&](int r, T value) {
      if (strip.row_labels[strip.first + r] != label && r != first_row) {
        body(p[0] - value);
      }
    });
  };
  T largest = -std::numeric_limits<T>::infinity(), sum = 0;
  each([&](T x) { largest = x > largest ? x : largest; });
  of_warps[threadIdx.y][threadIdx.x] = largest;
  __syncthreads();
  for (int w = 0; w < kColumnWarps; ++w) {
    const T other = of_warps[w][threadIdx.x];
    largest = other > largest ? other : largest;
  }
  each([&](T x) { sum += std::exp(x - largest); });
  sum = sum_of_column(sum);
  if (threadIdx.y > 0 || !real) {
    return;
  }
  const int64_t of = results.anchors + column;
  double maximum = results.statistic(2, of), total = results.statistic(3, of);
  if (strip.first == 0) {
    maximum = -infinity;
  }
  const double here = static_cast<double>(largest), overall = here > maximum ? here : maximum;
  auto share = [&](double part, double of_maximum) { return part == 0 ? 0.0 : part * std::exp(of_maximum - overall); };
  total = share(total, maximum) + share(static_cast<double>(sum), here);
  results.statistic(0, of) = total == 0 ? -infinity : overall + std::log(total);
  results.statistic(2, of) = overall;
  results.statistic(3, of) = total;
}

// Lifted structure with a reference: Σ_i h_ip·σ(L'_p − L_i), statistic 1 of the columns.
template <typename T>
__global__ void __launch_bounds__(kColumnWarps * kWarp)
    column_terms(const Strip<T> strip, const Parameters<T> p, const Results results) {
  const int column = static_cast<int>(blockIdx.x) * kWarp + threadIdx.x;
  const bool real = column < strip.columns;
  const int64_t label = real ? strip.column_labels[column] : 0, first_row = column - strip.own - strip.first;
  const int64_t of = results.anchors + column;
  const T log_sum = real ? static_cast<T>(results.statistic(0, of)) : T(0);
  T sum = 0;
  each_of_column(strip, column, [&](int r, T distance) {
    if (strip.row_labels[strip.first + r] == label && r != first_row) {
      const T other = static_cast<T>(results.statistic(0, strip.first + r));
      const T excess = lifted_hinge(p, other, log_sum, distance);
      if (!(excess <= T(0))) {
        sum += excess * logistic(log_sum - other);
      }
    }
  });
  sum = sum_of_column(sum);
  if (threadIdx.y == 0 && real) {
    results.statistic(1, of) += static_cast<double>(sum);
  }
}

// Sums of the columns' weights.
template <typename T>
__global__ void __launch_bounds__(kColumnWarps * kWarp) column_sums(const Strip<T> strip, double* __restrict__ sums) {
  const int column = static_cast<int>(blockIdx.x) * kWarp + threadIdx.x;
  T sum = 0;
  each_of_column(strip, column, [&](int, T weight) { sum += weight; });
  sum = sum_of_column(sum);
  if (threadIdx.y == 0 && column < strip.columns) {
    sums[column] = (strip.first == 0 ? 0.0 : sums[column]) + static_cast<double>(sum);
  }
}

} // namespace robustdml::pair
