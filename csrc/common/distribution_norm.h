// Formulas of batch normalization that the CPU and CUDA kernels share.
#pragma once

#include "host_device.h"

namespace robustdml::norm {

// Count, mean and Σ(x − mean)² of a set of values.
template <typename T>
struct Moments {
  T count, mean, m2;
};

// Moments of the union of two sets (Chan, Golub & LeVeque's pairwise update): no cancellation, whatever the mean.
template <typename T>
ROBUSTDML_HOST_DEVICE Moments<T> merge(const Moments<T>& a, const Moments<T>& b) {
  const T count = a.count + b.count;
  if (count == T(0)) {
    return a;
  }
  const T delta = b.mean - a.mean, share = b.count / count;
  return {count, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.count * share};
}

// Moments of n values from sums around a guess g of their mean: Σ(x − g) and Σ(x − g)².
template <typename T>
ROBUSTDML_HOST_DEVICE Moments<T> from_sums(T count, T guess, T sum, T sum_of_squares) {
  const T shift = count > T(0) ? sum / count : T(0);
  const T m2 = sum_of_squares - sum * shift;
  return {count, guess + shift, m2 > T(0) || m2 != m2 ? m2 : T(0)};
}

// γ·(x − μ)/√(σ² + ε) + β; scale = γ/√(σ² + ε). Subtracting first keeps the digits that a large mean would cost.
template <typename T>
ROBUSTDML_HOST_DEVICE T normalize(T x, T mean, T scale, T bias) {
  return (x - mean) * scale + bias;
}

// NaN stays NaN.
template <typename T>
ROBUSTDML_HOST_DEVICE T relu(T value) {
  return value < T(0) ? T(0) : value;
}

// The gradient behind the ReLU whose result was `output`.
template <typename T>
ROBUSTDML_HOST_DEVICE T relu_gradient(T gradient, T output) {
  return output <= T(0) ? T(0) : gradient;
}

// What the backward pass needs of a channel: dx = scale·dy − offset − slope·(x − μ).
template <typename T>
struct Backward {
  T mean, scale, offset, slope;
};

// sum_dy = Σ dy, sum_dy_xhat = Σ dy·x̂; count = 0 where the statistics are constants.
template <typename T>
ROBUSTDML_HOST_DEVICE Backward<T> backward_of(T weight, T mean, T inverse, T sum_dy, T sum_dy_xhat, T count) {
  const T scale = weight * inverse;
  if (count == T(0)) {
    return {mean, scale, T(0), T(0)};
  }
  return {mean, scale, scale * sum_dy / count, scale * inverse * sum_dy_xhat / count};
}

} // namespace robustdml::norm
