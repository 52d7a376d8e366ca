// Formulas of the proxy losses that the CPU and the CUDA kernels share.
#pragma once

#include "host_device.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace robustdml::proxy {

enum class Kind { arcface, normalized_softmax, proxy_anchor };

// False where `name` is none of them.
inline bool parse(const std::string& name, Kind& kind) {
  if (name == "arcface") {
    kind = Kind::arcface;
  } else if (name == "normalized_softmax") {
    kind = Kind::normalized_softmax;
  } else if (name == "proxy_anchor") {
    kind = Kind::proxy_anchor;
  } else {
    return false;
  }
  return true;
}

// cos θ → cos(θ + m), and cos θ − m·sin m beyond θ = π − m, where cos(θ + m) would rise again.
template <typename T>
struct Margin {
  T cosine, sine, last, fall; // cos m, sin m, cos(π − m), m·sin m

  Margin() = default;
  explicit Margin(double m)
      : cosine(static_cast<T>(std::cos(m))),
        sine(static_cast<T>(std::sin(m))),
        last(static_cast<T>(std::cos(3.14159265358979323846 - m))),
        fall(static_cast<T>(m * std::sin(m))) {}
};

// The target's logit over the scale, and its derivative towards the cosine.
template <typename T>
struct Widened {
  T value, slope;
};

// A cosine may lie outside [−1, 1] by rounding. At ±1 the sine has no derivative: its share is 0.
template <typename T>
ROBUSTDML_HOST_DEVICE Widened<T> widen(const Margin<T>& margin, T cosine) {
  // A NaN is in no comparison and passes.
  const T c = cosine < T(-1) ? T(-1) : cosine > T(1) ? T(1) : cosine;
  constexpr T smallest = std::numeric_limits<T>::epsilon();
  const T square = (T(1) - c) * (T(1) + c);
  const T sine = std::sqrt(square < smallest ? smallest : square);
  if (c <= margin.last) {
    return {c - margin.fall, T(1)};
  }
  return {c * margin.cosine - sine * margin.sine,
          margin.cosine + (square < smallest ? T(0) : c / sine * margin.sine)};
}

// 1/‖x‖ from ‖x‖²; 0 for a zero row, whose direction and gradient are then 0. NaN stays.
template <typename T>
ROBUSTDML_HOST_DEVICE T inverse_norm(double squares) {
  constexpr double most = static_cast<double>(std::numeric_limits<T>::max());
  const double inverse = squares == 0 ? 0 : 1 / std::sqrt(squares);
  return static_cast<T>(inverse > most ? most : inverse);
}

} // namespace robustdml::proxy
