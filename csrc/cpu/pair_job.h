// What a call of the pair losses asks for, and what its forward pass leaves to its backward pass.
#pragma once

#include "pair_tiles.h"

#include <string>

namespace robustdml::pairs {

enum class Reduction { sum, mean, nonzero };

struct Job {
  std::string kind;
  std::vector<double> parameters;
  Reduction reduction = Reduction::mean;
  bool squared = false;
  double* saved = nullptr; // [4, width]
  int64_t width = 0;

  double* row(int64_t k) const {
    return saved + k * width;
  }
  // Totals stand in the last column.
  double& total(int64_t k) const {
    return saved[(k + 1) * width - 1];
  }
};

// Numbers of ordered pairs: of one class, of two.
struct PairCounts {
  double same = 0, different = 0;
};

template <typename T>
PairCounts count_pairs(const Sets<T>& sets) {
  const Side<T>&a = sets.anchors, &b = sets.others();
  PairCounts counts;
  for (int64_t i = 0, j = 0; i < a.count;) {
    const auto code = a.code[i];
    const int64_t i0 = i;
    for (; i < a.count && a.code[i] == code; ++i) {
    }
    for (; j < b.count && b.code[j] < code; ++j) {
    }
    const int64_t j0 = j;
    for (; j < b.count && b.code[j] == code; ++j) {
    }
    counts.same += static_cast<double>(i - i0) * static_cast<double>(j - j0);
  }
  counts.different = static_cast<double>(a.count) * static_cast<double>(b.count) - counts.same;
  for (int64_t i = 0; i < a.count; ++i) {
    counts.same -= a.id[i] >= 0 && a.id[i] < b.count;
  }
  return counts;
}

inline double share(double sum, double count) {
  return count > 0 ? sum / count : 0.0;
}

// A sum per block of anchors, of which each tile adds to its own: the same order whatever the threads.
struct BlockSums {
  std::vector<double> of_block;
  explicit BlockSums(int64_t blocks) : of_block(blocks, 0.0) {}
  double total() const {
    return std::accumulate(of_block.begin(), of_block.end(), 0.0);
  }
};

} // namespace robustdml::pairs
