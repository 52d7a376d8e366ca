// Formulas of the projected gradient step, per pixel. NaN in an image stays NaN; NaN in a gradient moves nothing.
#pragma once

#include "host_device.h"

#include <math.h>

namespace robustdml::pgd {

// Below this norm a gradient has no direction that float32 could hold (as in ops/pgd_step.py).
constexpr double kSmallestGradientNorm = 1e-37;
constexpr double kLargestNorm = 1.7976931348623157e308; // beyond lies infinity
constexpr double kLargestScale = 3e38; // in float32, too

template <typename T>
ROBUSTDML_HOST_DEVICE T sign(T value) {
  return T(value > T(0)) - T(value < T(0));
}

template <typename T>
ROBUSTDML_HOST_DEVICE T clamp(T value, T low, T high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <typename T>
ROBUSTDML_HOST_DEVICE T linf(T x, T gradient, T clean, T step, T epsilon, T minimum, T maximum) {
  T moved = clamp(x + step * sign(gradient), clean - epsilon, clean + epsilon);
  return clamp(moved, minimum, maximum);
}

// The l2 step knows two numbers of its sample: step / ‖g‖ and, after the move, epsilon / distance where that is < 1.
// A gradient without a direction has scale 0, and may be NaN or infinite: the caller then puts 0 in its place.
template <typename T>
ROBUSTDML_HOST_DEVICE T l2_offset(T x, T gradient, T clean, T scale) {
  return x - clean + scale * gradient;
}

ROBUSTDML_HOST_DEVICE double l2_scale(double gradient_norm, double step) {
  const double scale = gradient_norm > kSmallestGradientNorm && gradient_norm <= kLargestNorm ? step / gradient_norm : 0.0;
  return scale <= kLargestScale && scale >= -kLargestScale ? scale : 0.0;
}

ROBUSTDML_HOST_DEVICE double l2_shrink(double distance, double epsilon) {
  return distance > epsilon ? epsilon / distance : 1.0;
}

// The two numbers from sums over the sample, taken in one look: gg = Σ g², dd = Σ d², dg = Σ d·g with d = x − clean.
// ‖d + (step/‖g‖)·g‖² = dd + 2·(step/‖g‖)·dg + step².
struct L2 {
  double scale, shrink;
};

ROBUSTDML_HOST_DEVICE L2 l2_of_sums(double gg, double dd, double dg, double step, double epsilon) {
  const double scale = l2_scale(sqrt(gg), step);
  double squared = scale == 0.0 ? dd : dd + 2.0 * scale * dg + step * step;
  squared = squared < 0.0 ? 0.0 : squared;
  return {scale, l2_shrink(sqrt(squared), epsilon)};
}

} // namespace robustdml::pgd
