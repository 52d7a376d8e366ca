// How the passes of the smooth pair losses look at a tile: every row is an anchor to the columns, and where a set is
// compared with itself every column is an anchor to the rows. Both are the same loop, over vectors of what an anchor is
// compared with, or over vectors of anchors.
#pragma once

#include "pair_tile_store.h"

namespace robustdml::pairs {

template <typename T>
double total(Vector<T> values) {
  double sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    sum += static_cast<double>(values[lane]);
  }
  return sum;
}

template <typename V>
inline V softplus(V x) {
  const V size = x < 0 ? -x : x, positive = x > 0 ? x : V{};
  return (x != x) ? x : positive + simd::log1p(simd::exp(-size));
}

// 1 / (1 + e⁻ˣ), exact in relative terms on both sides.
template <typename V>
inline V logistic(V x) {
  using T = simd::element_t<V>;
  const V small = simd::exp(x < 0 ? x : -x);
  return (x < 0 ? small : splat(T(1))) / (small + T(1));
}

// A statistic of every anchor, kept in lanes until all tiles are through: a whole vector for anchors met as rows, one
// lane for anchors met as columns.
template <typename T>
struct Lanes {
  Buffer<T> rows, columns;
  Lanes() = default;
  Lanes(int64_t padded, T value) : rows(padded * kLanes<T>), columns(padded) {
    rows.fill(value);
    columns.fill(value);
  }
};

// Masks and parameters of the anchors and of what they are compared with, at the begin of their blocks.
template <typename T>
struct Block {
  const integer_t<T>*anchor_code, *anchor_id, *other_code, *other_id;
  int64_t begin; // the first anchor
};

template <typename T>
struct RowRole {
  static constexpr int64_t lanes = kLanes<T>;
  const T* tile;
  int64_t rows, columns;

  int64_t anchors() const {
    return rows;
  }
  int64_t others() const {
    return (columns + lanes - 1) / lanes;
  }
  Vector<T> value(int64_t anchor, int64_t other) const {
    return load<T>(tile + anchor * kTile + other * lanes);
  }
  template <typename X>
  static Vector<X> of_anchor(const X* values, int64_t anchor) {
    return splat<X>(values[anchor]);
  }
  template <typename X>
  static Vector<X> of_other(const X* values, int64_t other) {
    return load<X>(values + other * lanes);
  }
  static T* place(const Lanes<T>& statistic, int64_t begin, int64_t anchor) {
    return statistic.rows.get() + (begin + anchor) * lanes;
  }
  // What a vector over anchors and lanes adds to a sum over real anchors: all of it.
  double real(Vector<T> values, int64_t) const {
    return total<T>(values);
  }
};

template <typename T>
struct ColumnRole {
  static constexpr int64_t lanes = kLanes<T>;
  const T* tile;
  int64_t rows, columns;

  int64_t anchors() const {
    return (columns + lanes - 1) / lanes;
  }
  int64_t others() const {
    return rows;
  }
  Vector<T> value(int64_t anchor, int64_t other) const {
    return load<T>(tile + other * kTile + anchor * lanes);
  }
  template <typename X>
  static Vector<X> of_anchor(const X* values, int64_t anchor) {
    return load<X>(values + anchor * lanes);
  }
  template <typename X>
  static Vector<X> of_other(const X* values, int64_t other) {
    return splat<X>(values[other]);
  }
  static T* place(const Lanes<T>& statistic, int64_t begin, int64_t anchor) {
    return statistic.columns.get() + begin + anchor * lanes;
  }
  double real(Vector<T> values, int64_t anchor) const {
    double sum = 0;
    for (int64_t lane = 0; lane < std::min(lanes, columns - anchor * lanes); ++lane) {
      sum += static_cast<double>(values[lane]);
    }
    return sum;
  }
};

template <typename T, typename Role>
simd::Mask<T> same_class(const Block<T>& block, int64_t anchor, int64_t other) {
  return (Role::of_anchor(block.anchor_code, anchor) == Role::of_other(block.other_code, other)) &
      (Role::of_anchor(block.anchor_id, anchor) != Role::of_other(block.other_id, other));
}

template <typename T, typename Role>
simd::Mask<T> other_class(const Block<T>& block, int64_t anchor, int64_t other) {
  const auto code = Role::of_other(block.other_code, other);
  return (Role::of_anchor(block.anchor_code, anchor) != code) & (code >= 0);
}

// Calls body(role, block, mask?) for the rows of a tile as anchors and, where asked, for its columns.
template <typename T, typename Body>
void both_roles(const Sets<T>& sets, int64_t i, int64_t j, const T* tile, bool columns_too, const Body& body) {
  const Side<T>&a = sets.anchors, &b = sets.others();
  const int64_t rows = a.rows_of(i), columns = b.rows_of(j), i0 = i * kTile, j0 = j * kTile;
  const Block<T> as_rows{a.code.get() + i0, a.id.get() + i0, b.code.get() + j0, b.id.get() + j0, i0};
  const Block<T> as_columns{b.code.get() + j0, b.id.get() + j0, a.code.get() + i0, a.id.get() + i0, j0};
  dispatch_bool(sets.masked(i, j), [&](auto masked) {
    body(RowRole<T>{tile, rows, columns}, as_rows, masked);
    if (columns_too) {
      body(ColumnRole<T>{tile, rows, columns}, as_columns, masked);
    }
  });
}

// Merges the lanes of a running maximum and of a sum of exponentials relative to it: log Σ exp(scale·v) of anchor i.
template <typename T>
std::pair<double, double> merged_log_sum(const Lanes<T>& maxima, const Lanes<T>& sums, int64_t i, double scale) {
  constexpr int64_t lanes = kLanes<T>;
  double largest = static_cast<double>(maxima.columns[i]);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    largest = std::max(largest, static_cast<double>(maxima.rows[i * lanes + lane]));
  }
  auto share = [&](T maximum, T sum) {
    return sum == 0 ? 0.0 : static_cast<double>(sum) * std::exp(scale * (static_cast<double>(maximum) - largest));
  };
  double sum = share(maxima.columns[i], sums.columns[i]);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    sum += share(maxima.rows[i * lanes + lane], sums.rows[i * lanes + lane]);
  }
  return {largest, sum == 0 ? static_cast<double>(kNothing<T>) : scale * largest + std::log(sum)};
}

template <typename T>
double merged_sum(const Lanes<T>& sums, int64_t i) {
  double sum = static_cast<double>(sums.columns[i]);
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    sum += static_cast<double>(sums.rows[i * kLanes<T> + lane]);
  }
  return sum;
}

// Adds the pairs of two classes in a tile to running maxima and to sums of exp(scale·(v − maximum)).
// `least`: only pairs whose value is not at or below it count; null where all do.
template <typename T, typename Role, bool masked>
void add_exponentials(
    const Role& role, const Block<T>& block, std::bool_constant<masked>, T scale, const T* least,
    const Lanes<T>& maxima, const Lanes<T>& sums) {
  using V = Vector<T>;
  const int64_t others = role.others();
  for (int64_t u = 0; u < role.anchors(); ++u) {
    T *maximum_at = Role::place(maxima, block.begin, u), *sum_at = Role::place(sums, block.begin, u);
    const V before = load<T>(maximum_at);
    V largest = before;
    for (int64_t o = 0; o < others; ++o) {
      V v = role.value(u, o);
      if constexpr (masked) {
        v = other_class<T, Role>(block, u, o) ? v : splat(kNothing<T>);
      }
      largest = simd::maximum(v, largest);
    }
    V sum = load<T>(sum_at) * simd::exp(scale * (before - largest));
    auto add = [&](auto limited) {
      const V limit = limited ? Role::of_anchor(least, u) : V{};
      for (int64_t o = 0; o < others; ++o) {
        const V v = role.value(u, o);
        V e = simd::exp(scale * (v - largest));
        if constexpr (limited) {
          e = v <= limit ? V{} : e;
        }
        if constexpr (masked) {
          e = other_class<T, Role>(block, u, o) ? e : V{};
        }
        sum += e;
      }
    };
    if (least) {
      add(std::true_type{});
    } else {
      add(std::false_type{});
    }
    simd::store(maximum_at, largest);
    simd::store(sum_at, sum);
  }
}

} // namespace robustdml::pairs
