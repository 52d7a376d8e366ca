// Formulas of the distance to one target, per component: which sums the norm needs, and the gradient they give.
#pragma once

#include "host_device.h"

namespace robustdml::target {

enum class Norm { l1, l2, linf };

template <typename T>
ROBUSTDML_HOST_DEVICE T absolute(T value) {
  return value < T(0) ? -value : value;
}

// What component d adds to Σ (l1: |d|, l2: d²); l∞ takes the maximum of |d| instead.
template <Norm norm, typename T>
ROBUSTDML_HOST_DEVICE T term(T difference) {
  return norm == Norm::l2 ? difference * difference : absolute(difference);
}

// ∂‖d‖/∂d for one component. l2: share = 1/‖d‖ (0 at 0); l∞: share = 1/(how many components are largest).
template <Norm norm, typename T>
ROBUSTDML_HOST_DEVICE T slope(T difference, T length, T share) {
  const T sign = T(difference > T(0)) - T(difference < T(0));
  if constexpr (norm == Norm::l1) {
    return sign;
  } else if constexpr (norm == Norm::l2) {
    return difference * share;
  } else {
    return absolute(difference) == length ? sign * share : T(0);
  }
}

} // namespace robustdml::target
