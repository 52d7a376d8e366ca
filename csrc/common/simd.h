// Vectors of the widest registers the library is compiled for, on the compilers' own vector types: one source for SSE2,
// AVX2, AVX-512 and NEON. Arithmetic, comparisons and `mask ? a : b` are the language's.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

namespace robustdml::simd {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <typename T>
constexpr int kLanes = kBytes / sizeof(T);

// Functions take the vector type itself as their parameter: compilers do not deduce T from Vector<T>.
template <typename T>
struct OfType {
  typedef T Vector __attribute__((vector_size(kBytes)));
  // Lies at any address, and may look at memory of other types.
  typedef T Loose __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
};
template <typename T>
using Vector = typename OfType<T>::Vector;
template <typename V>
using element_t = std::remove_cvref_t<decltype(V{}[0])>;

// The integer of a number's size: what comparisons give, and what labels are compared as.
template <typename T>
using integer_t = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <typename T>
using Mask = Vector<integer_t<T>>;

template <typename T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename OfType<T>::Loose*>(from);
}

template <typename V>
inline void store(element_t<V>* to, V value) {
  *reinterpret_cast<typename OfType<element_t<V>>::Loose*>(to) = value;
}

template <typename T>
inline Vector<T> splat(T value) {
  return value - Vector<T>{};
}

template <typename V>
inline V maximum(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
inline V minimum(V a, V b) {
  return a < b ? a : b;
}

template <typename M>
inline bool any(M mask) {
  auto bits = mask[0];
  for (unsigned i = 1; i < sizeof(M) / sizeof(mask[0]); ++i) {
    bits |= mask[i];
  }
  return bits != 0;
}

// The same bits as another type of the same size.
template <typename To, typename From>
inline To bits(From value) {
  return (To)value;
}

// Constants of exp: ln 2 in two parts, of which the first times a small whole number is exact.
template <typename T>
struct Exponential;

template <>
struct Exponential<float> {
  static constexpr float lowest = -87.33654f, highest = 88.72283f, shift = 12582912.0f; // 1.5 · 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int mantissa = 23, bias = 127, degree = 7;
};

template <>
struct Exponential<double> {
  static constexpr double lowest = -708.3964185322641, highest = 709.782712893384, shift = 6755399441055744.0;
  static constexpr double ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
  static constexpr int mantissa = 52, bias = 1023, degree = 13;
};

// eˣ to about one unit in the last place. 0 where the result would be denormal, infinity past the largest number,
// NaN for NaN.
template <typename V>
[[gnu::always_inline]] inline V exp(V x) {
  using T = element_t<V>;
  using C = Exponential<T>;
  using I = Vector<integer_t<T>>;
  constexpr T log2_e = T(1.4426950408889634);
  // A NaN is in no comparison and passes both bounds.
  V bounded = x < C::lowest ? splat(C::lowest) : x;
  bounded = bounded > C::highest ? splat(C::highest) : bounded;
  const V shifted = bounded * log2_e + C::shift;
  const V n = shifted - C::shift; // the nearest whole number; its bits are the low ones of `shifted`
  const V r = (bounded - n * C::ln2_high) - n * C::ln2_low; // |r| ≤ ln 2 / 2
  // Taylor's polynomial: on so short an interval the best one is hardly better.
  T inverse[C::degree + 1] = {1};
  for (int i = 1; i <= C::degree; ++i) {
    inverse[i] = inverse[i - 1] / T(i);
  }
  V value = splat(inverse[C::degree]);
#pragma GCC unroll 16
  for (int i = C::degree - 1; i >= 0; --i) {
    value = value * r + inverse[i];
  }
  // 2ⁿ in two steps: n reaches one past the largest exponent.
  const I exponent = bits<I>(shifted) - bits<I>(splat(C::shift));
  const I half = exponent >> 1;
  const V first = bits<V>((half + C::bias) << C::mantissa);
  const V second = bits<V>((exponent - half + C::bias) << C::mantissa);
  value = value * first * second;
  value = x < C::lowest ? V{} : value;
  return x > C::highest ? splat(std::numeric_limits<T>::infinity()) : value;
}

// log(1 + x) for 0 ≤ x ≤ 1, as 2·artanh(x / (2 + x)): exact in relative terms down to 0.
template <typename V>
[[gnu::always_inline]] inline V log1p(V x) {
  using T = element_t<V>;
  constexpr int terms = sizeof(T) == 8 ? 17 : 9;
  const V z = x / (x + T(2)), square = z * z;
  V value = splat(T(1) / T(2 * terms - 1));
#pragma GCC unroll 20
  for (int i = terms - 1; i >= 1; --i) {
    value = value * square + T(1) / T(2 * i - 1);
  }
  return z * value * T(2);
}

} // namespace robustdml::simd
