// What visitors of tiles share: thresholds in the order (score, lower index), and lanes of a comparison.
#pragma once

#include "neighbors_sweep.h"

#include <cstring>

namespace robustdml::nearest {

template <typename T>
constexpr int kTileVectors = kTile / simd::kLanes<T>;

// The largest number below a score: score > below(t) where score >= t. Of −∞ and NaN, themselves.
template <typename T>
T below(T value) {
  return std::nextafter(value, -std::numeric_limits<T>::infinity());
}

// One (score, index) for each query, for comparisons with a whole tile of scores at once.
template <typename T>
struct Thresholds {
  gemm::Buffer<T> scores, just_below;
  gemm::Buffer<int32_t> indices;

  Thresholds(int64_t count, T score) : scores(count), just_below(count), indices(count) {
    for (int64_t i = 0; i < count; ++i) {
      set(i, score, -1);
    }
  }
  void set(int64_t i, T score, int32_t index) const {
    scores[i] = score;
    just_below[i] = below(score);
    indices[i] = index;
  }
  // bound[i]: what scores of items from `end_of_items` − kTile on must exceed to come before threshold first + i.
  // Where they are all before the threshold's index, an equal score does; where the index is among them, the bound
  // is the score, and equal ones are the caller's.
  void bounds(int64_t first, int64_t count, int64_t end_of_items, T* bound) const {
    const T *plain = scores.get() + first, *lower = just_below.get() + first;
    const int32_t* index = indices.get() + first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      bound[i] = index[i] >= end_of_items ? lower[i] : plain[i];
    }
    std::fill(bound + count, bound + kTile, std::numeric_limits<T>::infinity());
  }
};

// The lanes of a mask as bytes, eight to a word.
template <typename M>
struct LaneBytes {
  static constexpr int lanes = sizeof(M) / sizeof(M{}[0]), words = (lanes + 7) / 8;
  typedef signed char Bytes __attribute__((vector_size(lanes)));
  uint64_t word[words] = {};

  explicit LaneBytes(M mask) {
    const Bytes bytes = __builtin_convertvector(mask, Bytes);
    std::memcpy(word, &bytes, lanes);
  }
  bool any() const {
    uint64_t all = word[0];
    for (int i = 1; i < words; ++i) {
      all |= word[i];
    }
    return all != 0;
  }
  template <typename Body>
  void each(const Body& body) const {
    for (int i = 0; i < words; ++i) {
      for (uint64_t left = word[i]; left != 0;) {
        const int lane = __builtin_ctzll(left) / 8;
        left &= ~(uint64_t{0xff} << (8 * lane));
        body(i * 8 + lane);
      }
    }
  }
};

}  // namespace robustdml::nearest
