// Formulas of the pair losses: what one pair adds, its slope, and the names of kinds and reductions.
#pragma once

#include "host_device.h"

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <string>
#include <vector>

namespace robustdml::pair {

enum class Kind {
  contrastive,
  binomial,
  npair,
  lifted,
  triplet_all,
  triplet_semihard,
  triplet_hardest,
  multi_similarity,
};
enum class Reduction { sum, mean, nonzero };
enum class Measure { similarity, distance, squared_distance };

inline Kind kind_of(const std::string& name) {
  constexpr const char* names[] = {"contrastive", "binomial",         "npair",           "lifted",
                                   "triplet_all", "triplet_semihard", "triplet_hardest", "multi_similarity"};
  for (int i = 0; i < 8; ++i) {
    if (name == names[i]) {
      return static_cast<Kind>(i);
    }
  }
  STD_TORCH_CHECK(false, "pair_loss: no kind ", name);
}

inline Reduction reduction_of(const std::string& name) {
  STD_TORCH_CHECK(name == "sum" || name == "mean" || name == "nonzero", "pair_loss: no reduction ", name);
  return name == "sum" ? Reduction::sum : name == "mean" ? Reduction::mean : Reduction::nonzero;
}

// Whether a kind is about similarities or about distances.
constexpr Measure measure_of_kind(Kind kind) {
  return kind == Kind::binomial || kind == Kind::npair || kind == Kind::multi_similarity ? Measure::similarity
                                                                                         : Measure::distance;
}

inline Measure measure_of(Kind kind, bool squared) {
  const Measure plain = measure_of_kind(kind);
  return squared && plain == Measure::distance && kind != Kind::lifted ? Measure::squared_distance : plain;
}

inline size_t parameter_count(Kind kind) {
  constexpr size_t counts[] = {3, 3, 0, 2, 1, 1, 1, 4};
  return counts[static_cast<int>(kind)];
}

// Below this share of |x|² + |y|², |x|² + |y|² − 2⟨x, y⟩ has lost three digits and is taken anew from the rows.
constexpr double kNear = 1e-3;

// A kind's numbers, in the order of the operator's argument.
template <typename T>
struct Parameters {
  T values[4] = {};

  Parameters(Kind kind, const std::vector<double>& numbers) {
    STD_TORCH_CHECK(numbers.size() == parameter_count(kind), "pair_loss: another number of parameters expected");
    for (size_t i = 0; i < numbers.size(); ++i) {
      values[i] = static_cast<T>(numbers[i]);
    }
  }
  ROBUSTDML_HOST_DEVICE T operator[](int i) const {
    return values[i];
  }
};

// log(1 + eˣ); NaN stays NaN, in all of these.
template <typename T>
ROBUSTDML_HOST_DEVICE T softplus(T x) {
  return (x > T(0) ? x : T(0)) + std::log1p(std::exp(x > T(0) ? -x : x));
}

// 1 / (1 + e⁻ˣ), exact in relative terms on both sides.
template <typename T>
ROBUSTDML_HOST_DEVICE T logistic(T x) {
  const T small = std::exp(x > T(0) ? -x : x);
  return (x > T(0) ? T(1) : small) / (T(1) + small);
}

// log(eᵃ + eᵇ), also of −∞, the logarithm of an empty sum.
template <typename T>
ROBUSTDML_HOST_DEVICE T log_add_exp(T a, T b) {
  const T large = a < b ? b : a, small = a < b ? a : b;
  return small == large ? large + static_cast<T>(0.69314718055994530942)
                        : large + std::log1p(std::exp(small - large));
}

template <typename T>
ROBUSTDML_HOST_DEVICE T hinge(T x) {
  return x < T(0) ? T(0) : x;
}

// What multiplies ∂L/∂v to give ∂L/∂⟨x, y⟩ (|x|² and |y|² are taken care of by sums of these); v is the measure.
template <typename T>
ROBUSTDML_HOST_DEVICE T towards_product(Measure measure, T v) {
  if (measure == Measure::distance) {
    return v > T(0) ? T(-1) / v : T(0);
  }
  return measure == Measure::squared_distance ? T(-2) : T(1);
}

// Contrastive, parameters (pos_margin, neg_margin, power), and binomial, (alpha, beta, eta): what a pair adds.
template <Kind kind, typename T>
ROBUSTDML_HOST_DEVICE T pair_term(const Parameters<T>& p, T v, bool positive) {
  if constexpr (kind == Kind::contrastive) {
    const T excess = hinge(positive ? v - p[0] : p[1] - v);
    return p[2] == T(2) ? excess * excess : excess;
  } else {
    return softplus(p[0] * (positive ? p[1] - v : p[2] * (v - p[1])));
  }
}

// Its derivative towards v.
template <Kind kind, typename T>
ROBUSTDML_HOST_DEVICE T pair_slope(const Parameters<T>& p, T v, bool positive) {
  if constexpr (kind == Kind::contrastive) {
    const T excess = hinge(positive ? v - p[0] : p[1] - v);
    const T slope = p[2] == T(2) ? 2 * excess : T(excess > T(0));
    return positive ? slope : -slope;
  } else {
    const T outer = p[0] * (positive ? T(-1) : p[2]);
    return outer * logistic(outer * (v - p[1]));
  }
}

// Multi-similarity, parameters (alpha, beta, base, epsilon): the exponent of a positive or a negative pair.
template <typename T>
ROBUSTDML_HOST_DEVICE T exponent(const Parameters<T>& p, T s, bool positive) {
  return (positive ? -p[0] : p[1]) * (s - p[2]);
}

// log(1 + sum·eᵐ), where m is at least 0.
template <typename T>
ROBUSTDML_HOST_DEVICE T log_one_plus(T sum, T m) {
  return m == T(0) ? std::log1p(sum) : m + std::log(std::exp(-m) + sum);
}

} // namespace robustdml::pair
