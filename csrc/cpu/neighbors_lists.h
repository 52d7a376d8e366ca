// The k nearest of every query, in lists that many threads fill and none shares.
//
// A list takes what comes before its threshold, until it is full; then its k best stay and the last of them is the
// new threshold. The order (score, lower index) is total, so what remains in the end does not depend on the order
// of arrival.
#pragma once

#include "neighbors_scan.h"

#include <algorithm>
#include <bit>

namespace robustdml::nearest {

// Whole numbers in the order of the scores; −0 and 0 are one.
template <typename T>
simd::integer_t<T> order_key(T score) {
  using Key = simd::integer_t<T>;
  const Key bits = std::bit_cast<Key>(score + T(0));
  return bits ^ ((bits >> (8 * sizeof(T) - 1)) & std::numeric_limits<Key>::max());
}
template <typename T>
T score_of(simd::integer_t<T> key) {
  using Key = simd::integer_t<T>;
  return std::bit_cast<T>(key ^ ((key >> (8 * sizeof(T) - 1)) & std::numeric_limits<Key>::max()));
}

// A score and an index as one number, which is smaller where the item comes first.
template <typename T>
struct Packed {
  using Key = simd::integer_t<T>;
  using Unsigned = std::make_unsigned_t<Key>;
  using Number = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;
  static constexpr Unsigned kFlip = static_cast<Unsigned>(std::numeric_limits<Key>::max());

  static Number pack(T score, int32_t index) {
    return (static_cast<Number>(static_cast<Unsigned>(order_key(score)) ^ kFlip) << 32) |
           static_cast<uint32_t>(index);
  }
  static T score(Number number) {
    return score_of<T>(static_cast<Key>(static_cast<Unsigned>(number >> 32) ^ kFlip));
  }
  static int32_t index(Number number) {
    return static_cast<int32_t>(static_cast<uint32_t>(number));
  }
};

template <typename T>
class Lists {
 public:
  struct Scratch {
    T row_bounds[kTile], column_bounds[kTile];
  };

  Lists(int64_t count, int64_t k)
      : k_(k),
        capacity_(k == 1 ? 0 : k + std::max<int64_t>(k / 2, 24)),
        thresholds_(count, -std::numeric_limits<T>::infinity()),
        sizes_(count),
        scores_(count * capacity_),
        indices_(count * capacity_) {
    sizes_.fill(0);
  }

  void start(Scratch&, int64_t, int64_t) const {}
  void finish(Scratch&, int64_t) const {}

  void rows(Scratch& scratch, const Tile<T>& tile, int64_t list) const {
    thresholds_.bounds(list + tile.row, tile.rows, tile.column + kTile, scratch.row_bounds);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* row = tile.scores + i * kTile;
      V best = simd::load<T>(row);
      for (int v = 1; v < kTileVectors<T>; ++v) {
        // A NaN is greater than nothing.
        best = simd::maximum(simd::load<T>(row + v * kLanes), best);
      }
      take_row(tile, i, best, scratch.row_bounds[i], list);
    }
  }

  void both(Scratch& scratch, const Tile<T>& tile) const {
    thresholds_.bounds(tile.row, tile.rows, tile.column + kTile, scratch.row_bounds);
    thresholds_.bounds(tile.column, tile.columns, tile.row + kTile, scratch.column_bounds);
    V of_columns[kTileVectors<T>];
    for (V& best : of_columns) {
      best = simd::splat(-std::numeric_limits<T>::infinity());
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* row = tile.scores + i * kTile;
      V best = simd::splat(-std::numeric_limits<T>::infinity());
#pragma GCC unroll 6
      for (int v = 0; v < kTileVectors<T>; ++v) {
        const V scores = simd::load<T>(row + v * kLanes);
        best = simd::maximum(scores, best);
        of_columns[v] = simd::maximum(scores, of_columns[v]);
      }
      take_row(tile, i, best, scratch.row_bounds[i], 0);
    }
    for (int v = 0; v < kTileVectors<T>; ++v) {
      const V bound = simd::load<T>(scratch.column_bounds + v * kLanes);
      if (LaneBytes(of_columns[v] > bound).any()) {
        for (int64_t i = 0; i < tile.rows; ++i) {
          const T* scores = tile.scores + i * kTile + v * kLanes;
          LaneBytes(simd::load<T>(scores) > bound).each([&](int lane) {
            push(tile.column + v * kLanes + lane, scores[lane], tile.row + i);
          });
        }
      }
    }
  }

  // Adds the items of another list of the same query, of other items.
  void merge(int64_t list, int64_t other) const {
    if (k_ == 1) {
      push(list, thresholds_.scores[other], thresholds_.indices[other]);
    }
    for (int32_t i = 0; i < sizes_[other]; ++i) {
      push(list, scores_[other * capacity_ + i], indices_[other * capacity_ + i]);
    }
  }

  // The list in order, filled up with score −∞ and index −1; write(place, score, index) for each of k places.
  template <typename Write>
  void write(int64_t list, const Write& write) const {
    if (k_ == 1) {
      write(0, thresholds_.scores[list], thresholds_.indices[list]);
      return;
    }
    if (sizes_[list] > k_) {
      keep_best(list, 0);
    }
    typename Packed<T>::Number items[kMostItems];
    const int64_t size = sizes_[list];
    for (int64_t i = 0; i < size; ++i) {
      items[i] = Packed<T>::pack(scores_[list * capacity_ + i], indices_[list * capacity_ + i]);
    }
    std::sort(items, items + size);
    for (int64_t i = 0; i < size; ++i) {
      write(i, Packed<T>::score(items[i]), Packed<T>::index(items[i]));
    }
    for (int64_t i = size; i < k_; ++i) {
      write(i, -std::numeric_limits<T>::infinity(), -1);
    }
  }

 private:
  using V = simd::Vector<T>;
  static constexpr int kLanes = simd::kLanes<T>;
  static constexpr int64_t kMostItems = 1024 + 512;  // of a list

  void take_row(const Tile<T>& tile, int64_t i, V best, T row_bound, int64_t list) const {
    const V bound = simd::splat(row_bound);
    if (LaneBytes(best > bound).any()) {
      for (int v = 0; v < kTileVectors<T>; ++v) {
        const T* scores = tile.scores + i * kTile + v * kLanes;
        LaneBytes(simd::load<T>(scores) > bound).each([&](int lane) {
          push(list + tile.row + i, scores[lane], tile.column + v * kLanes + lane);
        });
      }
    }
  }

  void push(int64_t list, T score, int64_t index) const {
    if (k_ == 1) {
      if (before(score, static_cast<int32_t>(index), thresholds_.scores[list], thresholds_.indices[list])) {
        thresholds_.set(list, score, static_cast<int32_t>(index));
      }
      return;
    }
    if (score < thresholds_.scores[list]) {
      return;  // the threshold has risen since the tile was compared with it
    }
    const int64_t place = list * capacity_ + sizes_[list];
    scores_[place] = score;
    indices_[place] = static_cast<int32_t>(index);
    if (++sizes_[list] == capacity_) {
      keep_best(list, k_ / 8);
    }
  }

  // Leaves the k best of more than k items, or up to `slack` more. No sorting: a key that so many items reach is
  // found by halving the range of keys, and counting how many reach it is a vector operation.
  void keep_best(int64_t list, int64_t slack) const {
    using Key = simd::integer_t<T>;
    using Unsigned = std::make_unsigned_t<Key>;
    const int64_t size = sizes_[list];
    T* scores = scores_.get() + list * capacity_;
    int32_t* indices = indices_.get() + list * capacity_;
    Key keys[kMostItems];
    Key low = std::numeric_limits<Key>::max(), high = std::numeric_limits<Key>::min();
#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < size; ++i) {
      const Key key = order_key(scores[i]);
      keys[i] = key;
      low = key < low ? key : low;
      high = key > high ? key : high;
    }
    auto count_from = [&](Key bound) {
      Key count = 0;
#pragma omp simd reduction(+ : count)
      for (int64_t i = 0; i < size; ++i) {
        count += keys[i] >= bound ? Key(1) : Key(0);
      }
      return static_cast<int64_t>(count);
    };
    // At least k items from `low` on, fewer than k after `high`.
    int64_t from_low = size;
    while (low < high && from_low > k_ + slack) {
      // Rounded up; the distance may be more than a Key holds.
      const Unsigned distance = static_cast<Unsigned>(high) - static_cast<Unsigned>(low);
      const Key middle = static_cast<Key>(static_cast<Unsigned>(low) + distance / 2 + distance % 2);
      const int64_t count = count_from(middle);
      if (count >= k_) {
        low = middle;
        from_low = count;
      } else {
        high = middle - 1;
      }
    }
    int32_t last_tie = std::numeric_limits<int32_t>::max();
    if (from_low > k_ + slack) {
      // Several items at the k-th score: those of the lowest indices stay.
      std::vector<int32_t> ties;
      for (int64_t i = 0; i < size; ++i) {
        if (keys[i] == low) {
          ties.push_back(indices[i]);
        }
      }
      const int64_t kept = static_cast<int64_t>(ties.size()) - (from_low - k_);
      std::nth_element(ties.begin(), ties.begin() + (kept - 1), ties.end());
      last_tie = ties[kept - 1];
    }
    int64_t kept = 0;
    T least = std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < size; ++i) {
      const bool stays = (keys[i] > low) | ((keys[i] == low) & (indices[i] <= last_tie));
      const T score = scores[i];
      scores[kept] = score;
      indices[kept] = indices[i];
      kept += stays;
      least = stays && score < least ? score : least;
    }
    int32_t least_index = -1;
    for (int64_t i = 0; i < kept; ++i) {
      least_index = scores[i] == least ? std::max(least_index, indices[i]) : least_index;
    }
    sizes_[list] = static_cast<int32_t>(kept);
    thresholds_.set(list, least, least_index);
  }

  int64_t k_, capacity_;
  Thresholds<T> thresholds_;
  gemm::Buffer<int32_t> sizes_;
  gemm::Buffer<T> scores_;
  gemm::Buffer<int32_t> indices_;
};

}  // namespace robustdml::nearest
