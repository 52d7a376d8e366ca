// How many items come before the nearest one of a query's class, without any list: the nearest of the class is
// found in the products of the class with itself, and one sweep over all tiles then counts what comes before it.
#pragma once

#include "neighbors_scan.h"

#include <limits>

namespace robustdml::nearest {

// The nearest item of each query's class. `queries` in the order query_order, `items` in the order members;
// thresholds by the query's own number. A query whose class has no other item keeps ∞, which nothing comes before.
template <typename T>
void nearest_of_class(
    const Rows<T>& queries, const Rows<T>& items, const Classes& classes, bool euclidean, bool exclude_self,
    const Thresholds<T>& nearest) {
  std::vector<int64_t> place(exclude_self ? items.count : 0);
  for (int64_t i = 0; exclude_self && i < items.count; ++i) {
    place[classes.members[i]] = i;
  }
  constexpr T infinity = std::numeric_limits<T>::infinity();
  parallel_tasks(queries.tiles(), 2 * tile_work<T>(queries.depth), [&](int64_t query_tile) {
    const int64_t first = query_tile * kTile, here = queries.tile_rows(query_tile);
    int64_t number[kTile], begin = items.count, end = 0;
    T best[kTile];
    int64_t best_index[kTile];
    for (int64_t i = 0; i < here; ++i) {
      number[i] = classes.query_order[first + i];
      best[i] = -infinity;
      best_index[i] = -1;
      if (classes.begin[number[i]] < classes.end[number[i]]) {
        begin = std::min(begin, classes.begin[number[i]]);
        end = std::max(end, classes.end[number[i]]);
      }
    }
    gemm::Buffer<T> scores(kTile * kTile);
    for (int64_t item_tile = begin / kTile; item_tile * kTile < end; ++item_tile) {
      const Tile<T> tile = score_tile(queries, query_tile, items, item_tile, scores.get(), euclidean, false);
      for (int64_t i = 0; i < here; ++i) {
        T* row = scores.get() + i * kTile;
        const int64_t from = std::max(classes.begin[number[i]] - tile.column, int64_t{0});
        const int64_t to = std::min(classes.end[number[i]] - tile.column, tile.columns);
        if (exclude_self) {
          const int64_t self = place[number[i]] - tile.column;
          if (self >= 0 && self < kTile) {
            row[self] = -infinity;
          }
        }
        T largest = -infinity;
#pragma omp simd reduction(max : largest)
        for (int64_t j = from; j < to; ++j) {
          largest = row[j] > largest ? row[j] : largest;
        }
        if (largest < best[i] || largest == -infinity) {
          continue;
        }
        for (int64_t j = from; j < to; ++j) {
          const int64_t index = classes.members[tile.column + j];
          if (row[j] == largest && before(largest, index, best[i], best_index[i])) {
            best[i] = largest;
            best_index[i] = index;
          }
        }
      }
    }
    for (int64_t i = 0; i < here; ++i) {
      const bool found = best_index[i] >= 0;
      nearest.set(number[i], found ? best[i] : infinity, static_cast<int32_t>(best_index[i]));
    }
  });
}

// Counts the items before each query's threshold. One comparison and one subtraction an element and role.
template <typename T>
class Ahead {
 public:
  struct Scratch {
    int64_t first, rows;
    simd::Mask<T> counts[kBlockTiles * kTile];  // of the task's rows, minus, lane by lane
    T row_bounds[kTile], column_bounds[kTile];
  };

  Ahead(const Thresholds<T>& nearest, int64_t lists) : nearest_(nearest), counts_(lists) {
    counts_.fill(0);
  }
  const int64_t* counts() const {
    return counts_.get();
  }

  void start(Scratch& scratch, int64_t first, int64_t rows) const {
    scratch.first = first;
    scratch.rows = rows;
    std::fill_n(scratch.counts, rows, simd::Mask<T>{});
  }
  void finish(Scratch& scratch, int64_t list) const {
    for (int64_t i = 0; i < scratch.rows; ++i) {
      counts_[list + scratch.first + i] -= sum(scratch.counts[i]);
    }
  }

  void rows(Scratch& scratch, const Tile<T>& tile, int64_t list) const {
    count<false>(scratch, tile);
    ties(tile, list);
  }
  void both(Scratch& scratch, const Tile<T>& tile) const {
    count<true>(scratch, tile);
    ties(tile, 0);
    const int32_t* index = nearest_.indices.get() + tile.column;
    for (int64_t j = 0; j < tile.columns; ++j) {
      for (int64_t i = 0; i < index[j] - tile.row && index[j] < tile.row + kTile; ++i) {
        counts_[tile.column + j] += tile.scores[i * kTile + j] == nearest_.scores[tile.column + j];
      }
    }
  }

 private:
  using V = simd::Vector<T>;
  using Mask = simd::Mask<T>;
  static constexpr int kLanes = simd::kLanes<T>;
  // Vectors side by side whose bounds and counts stay in registers.
  static constexpr int kGroup = simd::kBytes == 64 ? 6 : 4;

  static int64_t sum(Mask counts) {
    int64_t total = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      total += counts[lane];
    }
    return total;
  }

  template <bool columns>
  void count(Scratch& scratch, const Tile<T>& tile) const {
    nearest_.bounds(tile.row, tile.rows, tile.column + kTile, scratch.row_bounds);
    if (columns) {
      nearest_.bounds(tile.column, tile.columns, tile.row + kTile, scratch.column_bounds);
    }
    Mask* of_rows = scratch.counts + (tile.row - scratch.first);
    for (int64_t first = 0; first < kTile; first += kGroup * kLanes) {
      V bounds[kGroup];
      Mask of_columns[kGroup] = {};
#pragma GCC unroll 6
      for (int v = 0; v < kGroup; ++v) {
        bounds[v] = columns ? simd::load<T>(scratch.column_bounds + first + v * kLanes) : V{};
      }
      for (int64_t i = 0; i < tile.rows; ++i) {
        const V bound = simd::splat(scratch.row_bounds[i]);
        Mask of_row = of_rows[i];
#pragma GCC unroll 6
        for (int v = 0; v < kGroup; ++v) {
          const V scores = simd::load<T>(tile.scores + i * kTile + first + v * kLanes);
          of_row += scores > bound;
          if (columns) {
            of_columns[v] += scores > bounds[v];
          }
        }
        of_rows[i] = of_row;
      }
      for (int64_t v = 0; columns && v < kGroup; ++v) {
        for (int64_t lane = 0; lane < kLanes && first + v * kLanes + lane < tile.columns; ++lane) {
          counts_[tile.column + first + v * kLanes + lane] -= of_columns[v][lane];
        }
      }
    }
  }

  // Equal scores of lower indices, in the one tile that holds the query's nearest item.
  void ties(const Tile<T>& tile, int64_t list) const {
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int32_t index = nearest_.indices[tile.row + i];
      for (int64_t j = 0; j < index - tile.column && index < tile.column + kTile; ++j) {
        counts_[list + tile.row + i] += tile.scores[i * kTile + j] == nearest_.scores[tile.row + i];
      }
    }
  }

  const Thresholds<T>& nearest_;
  gemm::Buffer<int64_t> counts_;
};

}  // namespace robustdml::nearest
