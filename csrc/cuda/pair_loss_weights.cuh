// Backward over a strip: every value is replaced by its weight ∂L/∂⟨x_i, y_j⟩, so that a product with the columns' rows
// is the gradient. Where a set is compared with itself, the weight of (i, j) also has what anchor j makes of i.
#pragma once

#include "pair_loss_forward.cuh"

namespace robustdml::pair {

// What the pair adds to the slope as a pair of `anchor`, whose statistics come from the forward pass; `other` is the
// other's. Up to the share of a term in the loss.
template <Kind kind, typename T>
__device__ __forceinline__ T slope_of(
    const Parameters<T>& p, T value, bool positive, const Statistics<T>& anchor, int other) {
  if constexpr (kind == Kind::npair) {
    const T log_sum = anchor[0];
    return positive ? -logistic(log_sum - value) : anchor[1] * std::exp(value - log_sum);
  } else if constexpr (kind == Kind::triplet_hardest) {
    return T(other == to_index(anchor[0])) - T(other == to_index(anchor[1]));
  } else {
    static_assert(kind == Kind::multi_similarity);
    // By what is left out, as in the forward pass.
    const bool easy = positive ? value >= anchor[0] : value <= anchor[1];
    if (easy) {
      return T(0);
    }
    const T share = std::exp(exponent(p, value, positive) - (positive ? anchor[2] : anchor[3]));
    return positive ? -share : share;
  }
}

template <Kind kind, typename T>
__device__ __forceinline__ T slope_of_pair(
    const Parameters<T>& p, T value, bool positive, const Statistics<T>& anchor, const Statistics<T>& other,
    int64_t anchor_index, int column, bool both_roles) {
  if constexpr (kind == Kind::contrastive || kind == Kind::binomial) {
    return pair_slope<kind>(p, value, positive) * (both_roles ? T(2) : T(1));
  } else if constexpr (kind == Kind::lifted) {
    // Both sums are in every pair's term, with a reference too: `other` has the statistics of a column.
    const T role = both_roles ? T(2) : T(1);
    if (positive) {
      return role * lifted_hinge(p, anchor[0], other[0], value);
    }
    const T x = p[0] - value;
    return -role * (anchor[1] * std::exp(x - anchor[0]) + other[1] * std::exp(x - other[0]));
  } else {
    T slope = slope_of<kind>(p, value, positive, anchor, column);
    if (both_roles) {
      slope += slope_of<kind>(p, value, positive, other, static_cast<int>(anchor_index));
    }
    return slope;
  }
}

// sums: of each anchor's weights. Among the results, as last of statistics 0 and 1: the share of a term of a positive
// pair in the loss, and of a negative one.
template <Kind kind, int rows, typename T>
__global__ void __launch_bounds__(kThreads) pair_weights(
    const Strip<T> strip, const Parameters<T> p, const Statistics<T>* __restrict__ of_anchors,
    const Statistics<T>* __restrict__ of_columns, const Results results, bool both_roles, Measure measure,
    T* __restrict__ sums) {
  constexpr int width = kVector<T>;
  constexpr bool has_statistics = kind != Kind::contrastive && kind != Kind::binomial;
  const Anchors<rows, T> anchors(strip);
  const T positive_share = static_cast<T>(results.statistic(0, results.stride - 1));
  const T negative_share = static_cast<T>(results.statistic(1, results.stride - 1));
  Statistics<T> mine[rows] = {};
  if constexpr (has_statistics) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      mine[r] = load<4>(reinterpret_cast<const T*>(of_anchors + strip.first + anchors.row[r]));
    }
  }
  T total[rows] = {};
  for (int column = threadIdx.x * width; column < strip.columns; column += blockDim.x * width) {
    int64_t labels[width];
    Anchors<rows, T>::labels_of(strip, column, labels);
    Statistics<T> others[width] = {};
    if constexpr (has_statistics) {
#pragma unroll
      for (int j = 0; j < width; ++j) {
        // Past the end: the last one again, whose weight no product reads.
        const int safe = column + j < strip.columns ? column + j : strip.columns - 1;
        others[j] = load<4>(reinterpret_cast<const T*>(of_columns + safe));
      }
    }
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      T* at = strip.row(anchors.row[r]) + column;
      Vector<T, width> values = load<width>(at);
#pragma unroll
      for (int j = 0; j < width; ++j) {
        const T value = values.values[j];
        const bool real = column + j < strip.columns && column + j != anchors.own[r];
        const bool positive = labels[j] == anchors.label[r];
        T weight = 0;
        if (real) {
          weight = slope_of_pair<kind>(
              p, value, positive, mine[r], others[j], strip.first + anchors.row[r], column + j, both_roles);
          weight *= positive ? positive_share : negative_share;
          if constexpr (measure_of_kind(kind) == Measure::distance) {
            weight *= towards_product(measure, value);
          }
        }
        values.values[j] = weight;
        total[r] += weight;
      }
      if (anchors.begin + r < strip.rows) {
        store(at, values);
      }
    }
  }
  if constexpr (measure_of_kind(kind) == Measure::distance) {
    sum_over_block(total);
    anchors.each_row([&](int r, int64_t anchor) { sums[anchor] = total[r]; });
  }
}

} // namespace robustdml::pair
