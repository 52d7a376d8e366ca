// The smooth losses and the hardest triplet: sums and statistics of each anchor, from passes over its row of a strip.
#pragma once

#include "pair_loss_strip.cuh"

namespace robustdml::pair {

// Contrastive and binomial: every pair by itself.
template <Kind kind, int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    pair_terms(const Strip<T> strip, const Parameters<T> p, bool nonzero, const Results results) {
  const Anchors<rows, T> anchors(strip);
  T sums[2 * rows] = {};
  int counts[2 * rows] = {};
  anchors.each([&](int r, int, T value, bool positive, bool negative) {
    if (positive || negative) {
      const T term = pair_term<kind>(p, value, positive);
      const int counted = !nonzero || term > T(0);
      sums[r] += positive ? term : T(0);
      sums[rows + r] += positive ? T(0) : term;
      counts[r] += positive ? counted : 0;
      counts[rows + r] += positive ? 0 : counted;
    }
  });
  sum_over_block(sums);
  sum_over_block(counts);
  anchors.each_row([&](int r, int64_t anchor) {
    results.add(anchor, sums[r], counts[r], sums[rows + r], counts[rows + r]);
  });
}

// Multi-similarity. The first pass over a row finds what mining compares with, the second sums over mined pairs; the
// two extremes are also the largest exponents, so no sum overflows.
// Statistics: positives from this similarity on are easy, negatives down to this one are, log(1 + Σ) of both sides.
template <int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    multi_similarity_terms(const Strip<T> strip, const Parameters<T> p, bool, const Results results) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  const Anchors<rows, T> anchors(strip);
  T extremes[2 * rows]; // −(weakest positive), strongest negative
#pragma unroll
  for (int i = 0; i < 2 * rows; ++i) {
    extremes[i] = -infinity;
  }
  anchors.each([&](int r, int, T s, bool positive, bool negative) {
    if (positive && -s > extremes[r]) {
      extremes[r] = -s;
    }
    if (negative && s > extremes[rows + r]) {
      extremes[rows + r] = s;
    }
  });
  over_block(extremes, -infinity, [](T a, T b) { return a < b ? b : a; });

  T easy_positive[rows], easy_negative[rows], largest[2 * rows], sums[2 * rows] = {};
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    const T weakest = -extremes[r], strongest = extremes[rows + r];
    easy_positive[r] = strongest + p[3];
    easy_negative[r] = weakest - p[3];
    // An anchor of one side only has no pair that counts.
    const bool both = weakest < infinity && strongest > -infinity;
    largest[r] = both ? hinge(exponent(p, weakest, true)) : T(0);
    largest[rows + r] = both ? hinge(exponent(p, strongest, false)) : T(0);
  }
  // By what is left out, so that a NaN, which compares with nothing, stays in.
  anchors.each([&](int r, int, T s, bool positive, bool negative) {
    if (positive && !(s >= easy_positive[r])) {
      sums[r] += std::exp(exponent(p, s, true) - largest[r]);
    }
    if (negative && !(s <= easy_negative[r])) {
      sums[rows + r] += std::exp(exponent(p, s, false) - largest[rows + r]);
    }
  });
  sum_over_block(sums);
  anchors.each_row([&](int r, int64_t anchor) {
    const T pull = log_one_plus(sums[r], largest[r]), push = log_one_plus(sums[rows + r], largest[rows + r]);
    results.statistic(0, anchor) = easy_positive[r];
    results.statistic(1, anchor) = easy_negative[r];
    results.statistic(2, anchor) = pull;
    results.statistic(3, anchor) = push;
    results.add(anchor, static_cast<double>(pull) / p[0] + static_cast<double>(push) / p[1], 1);
  });
}

// log Σ exp(scale·value + shift) over the negatives of each row, −∞ where there are none; all threads get it.
template <int rows, typename T>
__device__ __forceinline__ void log_sums(const Anchors<rows, T>& anchors, T scale, T shift, T (&result)[rows]) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  T largest[rows], sums[rows] = {};
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    largest[r] = -infinity;
  }
  anchors.each([&](int r, int, T value, bool, bool negative) {
    const T x = scale * value + shift;
    largest[r] = negative && x > largest[r] ? x : largest[r];
  });
  over_block(largest, -infinity, [](T a, T b) { return a < b ? b : a; });
  anchors.each([&](int r, int, T value, bool, bool negative) {
    if (negative) {
      sums[r] += std::exp(scale * value + shift - largest[r]);
    }
  });
  sum_over_block(sums);
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    result[r] = sums[r] == T(0) ? -infinity : largest[r] + std::log(sums[r]);
  }
}

// N-pair. Statistics: L_i = log Σ_n exp(s_in), and Σ_p σ(L_i − s_ip).
template <int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    npair_terms(const Strip<T> strip, const Parameters<T>, bool, const Results results) {
  const Anchors<rows, T> anchors(strip);
  T log_sum[rows], sums[2 * rows] = {};
  int counts[rows] = {};
  log_sums(anchors, T(1), T(0), log_sum);
  anchors.each([&](int r, int, T s, bool positive, bool) {
    if (positive) {
      sums[r] += softplus(log_sum[r] - s);
      sums[rows + r] += logistic(log_sum[r] - s);
      ++counts[r];
    }
  });
  sum_over_block(sums);
  sum_over_block(counts);
  anchors.each_row([&](int r, int64_t anchor) {
    results.statistic(0, anchor) = log_sum[r];
    results.statistic(1, anchor) = sums[rows + r];
    results.add(anchor, sums[r], counts[r]);
  });
}

// Lifted structure, first: L_i = log Σ_n exp(neg_margin − d_in), statistic 0.
template <int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    lifted_log_sums(const Strip<T> strip, const Parameters<T> p, bool, const Results results) {
  const Anchors<rows, T> anchors(strip);
  T log_sum[rows];
  log_sums(anchors, T(-1), p[0], log_sum);
  anchors.each_row([&](int r, int64_t anchor) { results.statistic(0, anchor) = log_sum[r]; });
}

// [log(exp L_i + exp L'_p) + d_ip − pos_margin]₊; parameters (neg_margin, pos_margin).
template <typename T>
__device__ __forceinline__ T lifted_hinge(const Parameters<T>& p, T of_anchor, T of_positive, T distance) {
  return hinge(log_add_exp(of_anchor, of_positive) + distance - p[1]);
}

// Lifted structure, once L is known of all: Σ_p ½h², and as statistic 1 what ∂/∂L_i is, Σ_p h·σ(L_i − L'_p).
// first_column: whose statistics those of column 0 are.
template <int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    lifted_terms(const Strip<T> strip, const Parameters<T> p, int64_t first_column, const Results results) {
  const Anchors<rows, T> anchors(strip);
  T log_sum[rows], sums[2 * rows] = {};
  int counts[rows] = {};
#pragma unroll
  for (int r = 0; r < rows; ++r) {
    log_sum[r] = static_cast<T>(results.statistic(0, strip.first + anchors.row[r]));
  }
  anchors.each([&](int r, int column, T distance, bool positive, bool) {
    if (positive) {
      const T other = static_cast<T>(results.statistic(0, first_column + column));
      const T excess = lifted_hinge(p, log_sum[r], other, distance);
      ++counts[r];
      if (!(excess <= T(0))) {
        sums[r] += excess * excess / 2;
        sums[rows + r] += excess * logistic(log_sum[r] - other);
      }
    }
  });
  sum_over_block(sums);
  sum_over_block(counts);
  anchors.each_row([&](int r, int64_t anchor) {
    results.statistic(1, anchor) = sums[rows + r];
    results.add(anchor, sums[r], counts[r]);
  });
}

// Hardest triplet. Statistics: its positive and its negative, or none where the triplet adds nothing.
template <int rows, typename T>
__global__ void __launch_bounds__(kThreads)
    hardest_terms(const Strip<T> strip, const Parameters<T> p, bool nonzero, const Results results) {
  constexpr int nobody = std::numeric_limits<int>::max();
  const Anchors<rows, T> anchors(strip);
  T best[2 * rows]; // farthest positive, −(nearest negative)
  int mine[2 * rows];
#pragma unroll
  for (int i = 0; i < 2 * rows; ++i) {
    best[i] = -std::numeric_limits<T>::infinity();
    mine[i] = nobody;
  }
  anchors.each([&](int r, int column, T value, bool positive, bool negative) {
    if (positive && (mine[r] == nobody || value > best[r])) {
      best[r] = value;
      mine[r] = column;
    }
    if (negative && (mine[rows + r] == nobody || -value > best[rows + r])) {
      best[rows + r] = -value;
      mine[rows + r] = column;
    }
  });
  T overall[2 * rows];
#pragma unroll
  for (int i = 0; i < 2 * rows; ++i) {
    overall[i] = best[i];
  }
  over_block(overall, -std::numeric_limits<T>::infinity(), [](T a, T b) { return a < b ? b : a; });
#pragma unroll
  for (int i = 0; i < 2 * rows; ++i) {
    mine[i] = best[i] == overall[i] ? mine[i] : nobody;
  }
  over_block(mine, nobody, [](int a, int b) { return a < b ? a : b; }); // ties go to the smallest index
  anchors.each_row([&](int r, int64_t anchor) {
    const bool both = mine[r] != nobody && mine[rows + r] != nobody;
    const T excess = both ? hinge(overall[r] + overall[rows + r] + p[0]) : T(0);
    results.statistic(0, anchor) = excess > T(0) ? mine[r] : kNoColumn;
    results.statistic(1, anchor) = excess > T(0) ? mine[rows + r] : kNoColumn;
    results.add(anchor, excess, nonzero ? excess > T(0) : both);
  });
}

} // namespace robustdml::pair
