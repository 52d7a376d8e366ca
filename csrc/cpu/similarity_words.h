// Dropout's words on the CPU: the draws of rows, and from them the mask words of a row against many others.
#pragma once

#include "../common/similarity.h"
#include "../common/simd.h"

#include <cstdint>

namespace robustdml::similarity {

// An integer lane of T's size with a mask word in its high bits: unit h of the word is the sign after h doublings.
template <typename T>
using word_t = std::make_unsigned_t<simd::integer_t<T>>;

// Draws of one mask word for rows [first, first + count) of a side: out[i·stride + row − first] is draw i.
inline void draw_rows(
    const Dropout& dropout, uint64_t seed, Side side, uint32_t word, int64_t first, int64_t count, uint32_t* out,
    int64_t stride) {
  for (int block = 0; block < dropout.blocks(); ++block) {
    const int used = dropout.draws - block * kDraws < kDraws ? dropout.draws - block * kDraws : kDraws;
    uint32_t* to = out + block * kDraws * stride;
    constexpr int64_t step = 64;
    for (int64_t begin = 0; begin < count; begin += step) {
      const int64_t rows = count - begin < step ? count - begin : step;
      uint32_t drawn[kDraws][step];
#pragma omp simd
      for (int64_t i = 0; i < rows; ++i) {
        uint32_t words[kDraws];
        draw(words, seed, side, static_cast<uint32_t>(first + begin + i), word, static_cast<uint32_t>(block));
        drawn[0][i] = words[0];
        drawn[1][i] = words[1];
        drawn[2][i] = words[2];
        drawn[3][i] = words[3];
      }
      for (int draw = 0; draw < used; ++draw) {
        for (int64_t i = 0; i < rows; ++i) {
          to[draw * stride + begin + i] = drawn[draw][i];
        }
      }
    }
  }
}

// As many mask words as a vector of any type has lanes.
template <int count>
struct MaskWords {
  typedef uint32_t Vector __attribute__((vector_size(4 * count)));
  typedef uint32_t Loose __attribute__((vector_size(4 * count), aligned(4), may_alias));
};

// Mask words of one row against as many others as T has lanes. row[i·row_stride]: its draws; lanes + i·stride: theirs.
template <typename T>
inline simd::Vector<word_t<T>> mask_words(
    const Dropout& dropout, const uint32_t* row, int64_t row_stride, const uint32_t* lanes, int64_t stride) {
  using Words = typename MaskWords<simd::kLanes<T>>::Vector;
  using Loose = typename MaskWords<simd::kLanes<T>>::Loose;
  Words kept = ~Words{};
  for (int i = 0; i < dropout.draws; ++i) {
    Words x = *reinterpret_cast<const Loose*>(lanes + i * stride) + row[i * row_stride];
    x ^= x >> 16; // mix(), on vectors
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    x ^= x >> 16;
    kept = dropout.bit(i) ? kept & x : kept | x;
  }
  if constexpr (sizeof(T) == 4) {
    return kept;
  } else {
    simd::Vector<word_t<T>> wide;
    for (int i = 0; i < simd::kLanes<T>; ++i) {
      wide[i] = word_t<T>{kept[i]} << 32;
    }
    return wide;
  }
}

} // namespace robustdml::similarity
