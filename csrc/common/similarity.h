// Dropout of the learned similarity: which hidden unit of which pair is kept, from the seed alone, so that a backward
// pass, another device or another tiling finds the same mask without one being stored.
//
// Philox4x32-10 (Salmon et al. 2011) gives each row of either side its own random words. A pair's word is a mix of the
// sum of its two sides' words. For one embedding the words of all prototypes are thus a bijection of Philox's, exactly
// as independent as those, and likewise for one prototype; only pairs that close a cycle (b, c), (b', c), (b', c'),
// (b, c') rely on the mix. That takes 9 operations a word where Philox takes 25.
#pragma once

#include "host_device.h"

#include <cstdint>

namespace robustdml::similarity {

// Hidden units of one word of mask bits; unit h is bit 31 − h mod 32 of word h / 32: the first is the sign.
constexpr int kUnits = 32;
// Random words of one Philox call.
constexpr int kDraws = 4;

enum class Side : uint32_t { embeddings = 0, prototypes = 1 };

ROBUSTDML_HOST_DEVICE void philox_round(uint32_t (&counter)[4], uint32_t low, uint32_t high) {
  const uint64_t first = uint64_t{0xD2511F53u} * counter[0], second = uint64_t{0xCD9E8D57u} * counter[2];
  const uint32_t one = counter[1], three = counter[3];
  counter[0] = static_cast<uint32_t>(second >> 32) ^ one ^ low;
  counter[1] = static_cast<uint32_t>(second);
  counter[2] = static_cast<uint32_t>(first >> 32) ^ three ^ high;
  counter[3] = static_cast<uint32_t>(first);
}

// Philox4x32-10 of a counter under a 64-bit key, in place.
ROBUSTDML_HOST_DEVICE void philox(uint32_t (&counter)[4], uint64_t key) {
  uint32_t low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    philox_round(counter, low, high);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
}

// The four words of a row of one side: draws 4·block … 4·block + 3 of mask word `word`.
ROBUSTDML_HOST_DEVICE void draw(
    uint32_t (&words)[kDraws], uint64_t seed, Side side, uint32_t row, uint32_t word, uint32_t block) {
  words[0] = row;
  words[1] = word;
  words[2] = block;
  words[3] = static_cast<uint32_t>(side);
  philox(words, seed);
}

// A bijection of 32-bit words under which every bit depends on every other (the finalizer of MurmurHash3).
ROBUSTDML_HOST_DEVICE uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ x >> 16;
}

// A unit is dropped with probability threshold / 2^16. The comparison of a random number with the threshold is done
// bit by bit, for the 32 units of a word at once: draw i holds bit i of their numbers, and bits below the threshold's
// lowest one decide nothing. A quarter takes two draws for 32 units.
struct Dropout {
  uint32_t bits = 0;  // the threshold without its low zeros
  int draws = 0;      // its length in bits; 0: nothing is dropped
  double scale = 1.0; // of what is kept

  static constexpr int kLength = 16;

  explicit Dropout(int64_t threshold) {
    if (threshold > 0) {
      bits = static_cast<uint32_t>(threshold);
      draws = kLength;
      for (; bits % 2 == 0; bits /= 2) {
        --draws;
      }
      scale = double(1 << kLength) / double((1 << kLength) - threshold);
    }
  }

  ROBUSTDML_HOST_DEVICE bool bit(int i) const {
    return bits >> i & 1u;
  }
  // Philox calls for the draws of one word of one row.
  ROBUSTDML_HOST_DEVICE int blocks() const {
    return (draws + kDraws - 1) / kDraws;
  }
};

// The mask of what is kept after draw i of value `random`; before the first draw every bit is set.
ROBUSTDML_HOST_DEVICE uint32_t keep(uint32_t kept, uint32_t random, bool bit) {
  return bit ? kept & random : kept | random;
}

} // namespace robustdml::similarity
