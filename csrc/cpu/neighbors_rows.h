// Rows made ready for the products of `neighbors`: scaled, and packed once a call.
#pragma once

#include "../common/neighbors.h"
#include "../common/parallel.h"
#include "../common/tensor.h"
#include "gemm.h"

#include <cmath>
#include <vector>

namespace robustdml::nearest {

using gemm::kTile;

inline int64_t tiles_of(int64_t rows) {
  return (rows + kTile - 1) / kTile;
}

// Rows as both operands of a product, tile by tile; rows past the last one are zeros.
template <typename T>
struct Rows {
  int64_t count, depth;
  gemm::Buffer<T> left, right;  // panels of kRows and of kColumns<T>; one of them may be empty
  gemm::Buffer<T> half;         // |row|²/2, for Euclidean distances

  int64_t tiles() const {
    return tiles_of(count);
  }
  int64_t tile_rows(int64_t tile) const {
    return std::min(kTile, count - tile * kTile);
  }
  const T* left_tile(int64_t tile) const {
    return left.get() + tile * kTile * depth;
  }
  const T* right_tile(int64_t tile) const {
    return right.get() + tile * kTile * depth;
  }
};

// The largest |x| of a row, which is copied to `to`; NaN where not all of it is finite.
template <typename T, typename scalar_t>
T copy_row(const scalar_t* from, T* to, int64_t depth) {
  T largest = 0, check = 0;
#pragma omp simd reduction(max : largest) reduction(+ : check)
  for (int64_t d = 0; d < depth; ++d) {
    const T value = static_cast<T>(from[d]), size = value < T(0) ? -value : value;
    to[d] = value;
    largest = size > largest ? size : largest;
    check += value - value;
  }
  return check == T(0) ? largest : std::numeric_limits<T>::quiet_NaN();
}

// The largest |x| of all rows that are finite.
template <typename T, typename scalar_t>
T largest_entry(const scalar_t* rows, int64_t count, int64_t depth) {
  std::vector<T> of_tiles(tiles_of(count), T(0));
  parallel_tasks(tiles_of(count), kTile * depth, [&](int64_t tile) {
    std::vector<T> copy(depth);
    for (int64_t i = tile * kTile; i < std::min(count, (tile + 1) * kTile); ++i) {
      const T largest = copy_row(rows + i * depth, copy.data(), depth);
      of_tiles[tile] = largest > of_tiles[tile] ? largest : of_tiles[tile];
    }
  });
  T largest = 0;
  for (const T value : of_tiles) {
    largest = std::max(largest, value);
  }
  return largest;
}

// A row of length 1; zeros stay zeros.
template <typename T>
void normalize_row(T* row, T largest, int64_t depth) {
  if (!(largest > T(0))) {
    return;
  }
  const T scale = scale_to_one(largest);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < depth; ++d) {
    const double value = row[d] * scale;
    sum += value * value;
  }
  const double length = std::sqrt(sum);
#pragma omp simd
  for (int64_t d = 0; d < depth; ++d) {
    row[d] = static_cast<T>(static_cast<double>(row[d] * scale) / length);
  }
}

enum class Operand { left, right, both };

// |row|²/2 of a tile's rows, from its panels of `width`. Each is one chain of multiply-adds over the components in
// order, as an element of the product is: the same bits as the product of two equal rows, whose distance is then 0.
template <int width, typename T>
void half_squares(const T* panels, int64_t depth, T* half) {
  for (int64_t first = 0; first < kTile; first += width) {
    T sums[width] = {};
    for (int64_t d = 0; d < depth; ++d, panels += width) {
#pragma omp simd
      for (int i = 0; i < width; ++i) {
        sums[i] += panels[i] * panels[i];
      }
    }
    for (int i = 0; i < width; ++i) {
      half[first + i] = sums[i] / 2;
    }
  }
}

// `order`: which row of `from` comes where, or null. A row that is not finite becomes NaN all over: no score of it
// is a number, so it is nobody's neighbor and has none.
template <typename T, typename scalar_t>
Rows<T> pack_rows(
    const scalar_t* from, int64_t count, int64_t depth, Measure measure, T scale, const int64_t* order,
    Operand operand) {
  Rows<T> rows{count, depth, {}, {}, {}};
  const int64_t tiles = rows.tiles();
  const bool euclidean = measure != Measure::cosine;
  if (operand != Operand::right) {
    rows.left = gemm::Buffer<T>(tiles * kTile * depth);
  }
  if (operand != Operand::left) {
    rows.right = gemm::Buffer<T>(tiles * kTile * depth);
  }
  if (euclidean) {
    rows.half = gemm::Buffer<T>(tiles * kTile);
  }
  parallel_tasks(tiles, kTile * depth * 8, [&](int64_t tile) {
    gemm::Buffer<T> plain(kTile * depth);
    const int64_t first = tile * kTile, here = rows.tile_rows(tile);
    for (int64_t i = 0; i < here; ++i) {
      T* row = plain.get() + i * depth;
      const T largest = copy_row(from + (order != nullptr ? order[first + i] : first + i) * depth, row, depth);
      if (largest != largest) {
        std::fill_n(row, depth, largest);
      } else if (euclidean) {
        for (int64_t d = 0; d < depth; ++d) {
          row[d] *= scale;
        }
      } else {
        normalize_row(row, largest, depth);
      }
    }
    auto row = [&](int64_t i) { return plain.get() + i * depth; };
    auto pack = [&](T* panels, int width) {
      for (int64_t i = 0; i < kTile; i += width) {
        gemm::pack_row_panel(panels + i * depth, i, here, depth, width, row);
      }
    };
    if (operand != Operand::right) {
      pack(rows.left.get() + first * depth, gemm::kRows);
    }
    if (operand != Operand::left) {
      pack(rows.right.get() + first * depth, gemm::kColumns<T>);
    }
    if (euclidean && operand != Operand::left) {
      half_squares<gemm::kColumns<T>>(rows.right_tile(tile), depth, rows.half.get() + first);
    } else if (euclidean) {
      half_squares<gemm::kRows>(rows.left_tile(tile), depth, rows.half.get() + first);
    }
  });
  return rows;
}

// ------------------------------------------------------------------------------------------------------ one tile

// Scores of kTile queries (rows) and items (columns), of which `rows` and `columns` are there. Columns past the
// last item hold −∞, as does an item that a query must not find.
template <typename T>
struct Tile {
  T* scores;  // [kTile, kTile]
  int64_t row, rows, column, columns;
};

template <typename T>
Tile<T> score_tile(
    const Rows<T>& queries, int64_t query_tile, const Rows<T>& items, int64_t item_tile, T* scores, bool euclidean,
    bool exclude_self) {
  const Tile<T> tile{
      scores, query_tile * kTile, queries.tile_rows(query_tile), item_tile * kTile, items.tile_rows(item_tile)};
  gemm::inner_products(
      queries.left_tile(query_tile), tile.rows, items.right_tile(item_tile), tile.columns, queries.depth, scores,
      kTile);
  if (euclidean) {
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = scores + i * kTile;
      const T half = queries.half[tile.row + i];
      const T* halves = items.half.get() + tile.column;
#pragma omp simd
      for (int64_t j = 0; j < kTile; ++j) {
        row[j] = euclidean_score(row[j], half, halves[j]);
      }
    }
  }
  for (int64_t i = 0; i < tile.rows && tile.columns < kTile; ++i) {
    std::fill(scores + i * kTile + tile.columns, scores + (i + 1) * kTile, -std::numeric_limits<T>::infinity());
  }
  for (int64_t i = 0; i < tile.rows && exclude_self && query_tile == item_tile; ++i) {
    scores[i * kTile + i] = -std::numeric_limits<T>::infinity();
  }
  return tile;
}

}  // namespace robustdml::nearest
