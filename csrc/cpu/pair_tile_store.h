// Tiles as a loss looks at them: inner products or distances.
#pragma once

#include "pair_tiles.h"

namespace robustdml::pairs {

enum class Measure { inner_product, distance, negative_distance, squared_distance };

// Inner products of rows [first, first + rows) of the anchors and block J → distances, in place.
template <typename T>
void to_distances(const Sets<T>& sets, int64_t first, int64_t rows, int64_t j, T* tile, Measure measure) {
  const Side<T>&a = sets.anchors, &b = sets.others();
  const T *a_squares = a.squares.get() + first, *b_squares = b.squares.get() + j * kTile;
  // Below this share of |x|² + |y|² the difference has lost three digits, and is taken anew from the rows.
  constexpr T near = T(1e-3);
  auto exact_square = [&](int64_t row, int64_t column) {
    T sum = 0;
    for (int64_t k = 0; k < a.depth; ++k) {
      const T difference = a.value(first + row, k) - b.value(j * kTile + column, k);
      sum += difference * difference;
    }
    return sum;
  };
  const int64_t columns = b.rows_of(j);
  for (int64_t r = 0; r < rows; ++r) {
    T* row = tile + r * kTile;
    const T square = a_squares[r];
    int64_t close = 0;
#pragma omp simd reduction(+ : close)
    for (int64_t c = 0; c < columns; ++c) {
      const T sum = square + b_squares[c];
      row[c] = sum - 2 * row[c];
      close += row[c] < near * sum;
    }
    for (int64_t c = 0; c < columns && close > 0; ++c) {
      if (row[c] < near * (square + b_squares[c])) {
        row[c] = exact_square(r, c);
        --close;
      }
    }
    if (measure == Measure::squared_distance) {
      continue;
    }
    const T sign = measure == Measure::negative_distance ? T(-1) : T(1);
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) {
      row[c] = sign * std::sqrt(row[c]);
    }
  }
}

// Tiles with pairs of one class are met several times in a forward pass, and kept where they are few.
template <typename T>
class Tiles {
 public:
  // `keep`: whether there is more than one pass.
  Tiles(const Sets<T>& sets, Measure measure, bool keep = true) : sets_(sets), measure_(measure) {
    const int64_t most = keep ? 64 : -1;
    first_.assign(sets.anchors.blocks + 1, 0);
    begin_.assign(sets.anchors.blocks, 0);
    int64_t count = 0;
    for (int64_t i = 0; i < sets.anchors.blocks && count <= most; ++i) {
      first_[i] = count;
      begin_[i] = -1;
      for (int64_t j = sets.symmetric ? i : 0; j < sets.others().blocks; ++j) {
        if (sets.overlap(i, j)) {
          begin_[i] = begin_[i] < 0 ? j : begin_[i];
          ++count;
        } else if (begin_[i] >= 0) {
          break;
        }
      }
    }
    if (count <= most) {
      kept_ = Buffer<T>(count * kTile * kTile);
      done_.assign(count, 0);
    }
  }

  const T* get(int64_t i, int64_t j, T* scratch) {
    const bool keep = !done_.empty() && sets_.overlap(i, j);
    const int64_t slot = keep ? first_[i] + j - begin_[i] : 0;
    T* tile = keep ? kept_.get() + slot * kTile * kTile : scratch;
    if (!keep || !done_[slot]) {
      sets_.products(i, j, tile);
      if (measure_ != Measure::inner_product) {
        to_distances(sets_, i * kTile, sets_.anchors.rows_of(i), j, tile, measure_);
      }
      if (keep) {
        done_[slot] = 1;
      }
    }
    return tile;
  }

 private:
  const Sets<T>& sets_;
  Measure measure_;
  std::vector<int64_t> first_, begin_;
  Buffer<T> kept_;
  std::vector<char> done_;
};

} // namespace robustdml::pairs
