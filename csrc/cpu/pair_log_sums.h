// Losses of a positive pair against the log-sum-exp of negatives: N-pair and lifted structure. The sums of all anchors
// come first, then the positive pairs, which also say how hard each anchor pulls on its sum.
#pragma once

#include "pair_job.h"
#include "pair_roles.h"

#include <array>

namespace robustdml::pairs {

// ECAML, equation 9.
template <typename T>
struct NPair {
  static constexpr Measure measure = Measure::inner_product;
  static constexpr bool anchors_only = true;
  using V = Vector<T>;
  T scale = 0;
  explicit NPair(const Job&) {}

  double forward(const Sets<T>& sets, const Job& job) const {
    const Side<T>& a = sets.anchors;
    Tiles<T> tiles(sets, measure);
    Lanes<T> maxima(a.padded, kNothing<T>), sums(a.padded, T(0)), pulls(a.padded, T(0));
    sweep(sets, [&](int64_t i, int64_t j) { return sets.has_negatives(i, j); }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(
          sets, i, j, tiles.get(i, j, scratch), sets.symmetric && i != j, [&](auto role, auto& block, auto masked) {
            add_exponentials(role, block, masked, T(1), static_cast<const T*>(nullptr), maxima, sums);
          });
    });
    Buffer<T> log_sum(a.padded);
    log_sum.fill(kNothing<T>);
    for (int64_t i = 0; i < a.count; ++i) {
      job.row(0)[i] = merged_log_sum(maxima, sums, i, 1.0).second;
      log_sum[i] = static_cast<T>(job.row(0)[i]);
    }
    BlockSums loss(a.blocks);
    sweep(sets, [&](int64_t i, int64_t j) { return sets.overlap(i, j); }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), sets.symmetric && i != j, [&](auto role, auto& block, auto) {
        using Role = decltype(role);
        for (int64_t u = 0; u < role.anchors(); ++u) {
          const V push = Role::of_anchor(log_sum.get() + block.begin, u);
          T* place = Role::place(pulls, block.begin, u);
          V pull = load<T>(place), cost = {};
          for (int64_t o = 0; o < role.others(); ++o) {
            const auto same = same_class<T, Role>(block, u, o);
            const V x = push - role.value(u, o);
            cost += same ? softplus(x) : V{};
            pull += same ? logistic(x) : V{};
          }
          simd::store(place, pull);
          loss.of_block[block.begin / kTile] += role.real(cost, u);
        }
      });
    });
    for (int64_t i = 0; i < a.count; ++i) {
      job.row(1)[i] = merged_sum(pulls, i);
    }
    job.total(0) = job.reduction == Reduction::mean ? count_pairs(sets).same : 1;
    return share(loss.total(), job.total(0));
  }

  void prepare(const Job& job, double grad, bool) {
    scale = static_cast<T>(share(grad, job.total(0)));
  }
  // Rows of `saved`: log Σ exp over negatives, Σ over positives of the pull.
  V different(const V* anchor, V v) const {
    return scale * anchor[1] * simd::exp(v - anchor[0]);
  }
  V same(const V* anchor, const V*, V v) const {
    return -scale * logistic(anchor[0] - v);
  }
};

// ------------------------------------------------------------------------ lifted structure (Song et al. 2016, smooth)

template <typename T>
struct Lifted {
  static constexpr Measure measure = Measure::negative_distance; // v = −d, so that sums are of exp(v)
  static constexpr bool anchors_only = false;
  using V = Vector<T>;
  double negative_margin;
  T positive_margin, scale = 0, shift;
  explicit Lifted(const Job& job)
      : negative_margin(job.parameters[0]), positive_margin(T(job.parameters[1])), shift(T(job.parameters[0])) {}

  // Both sets have sums: those of the others stand behind the anchors' in `saved`.
  double forward(const Sets<T>& sets, const Job& job) const {
    const Side<T>&a = sets.anchors, &b = sets.others();
    Tiles<T> tiles(sets, measure);
    std::array<Lanes<T>, 2> maxima, sums, pulls;
    std::array<Buffer<T>, 2> log_sum;
    const int sides = sets.symmetric ? 1 : 2;
    for (int side = 0; side < sides; ++side) {
      const int64_t padded = side == 0 ? a.padded : b.padded;
      maxima[side] = Lanes<T>(padded, kNothing<T>);
      sums[side] = Lanes<T>(padded, T(0));
      pulls[side] = Lanes<T>(padded, T(0));
      log_sum[side] = Buffer<T>(padded);
      log_sum[side].fill(kNothing<T>);
    }
    auto side_of = [&](auto role) {
      return std::is_same_v<decltype(role), ColumnRole<T>> && !sets.symmetric ? 1 : 0;
    };
    auto columns_too = [&](int64_t i, int64_t j) { return !sets.symmetric || i != j; };
    sweep(sets, [&](int64_t i, int64_t j) { return sets.has_negatives(i, j); }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), columns_too(i, j), [&](auto role, auto& block, auto masked) {
        const int side = side_of(role);
        add_exponentials(role, block, masked, T(1), static_cast<const T*>(nullptr), maxima[side], sums[side]);
      });
    });
    for (int side = 0; side < sides; ++side) {
      const int64_t count = side == 0 ? a.count : b.count, offset = side == 0 ? 0 : a.count;
      for (int64_t i = 0; i < count; ++i) {
        const double merged = merged_log_sum(maxima[side], sums[side], i, 1.0).second;
        job.row(0)[offset + i] = merged <= -1e29 ? static_cast<double>(kNothing<T>) : merged + negative_margin;
        log_sum[side][i] = static_cast<T>(job.row(0)[offset + i]);
      }
    }
    BlockSums loss(a.blocks);
    sweep(sets, [&](int64_t i, int64_t j) { return sets.overlap(i, j); }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), columns_too(i, j), [&](auto role, auto& block, auto) {
        using Role = decltype(role);
        const int side = side_of(role), other_side = sets.symmetric ? 0 : 1 - side;
        const T* of_others = log_sum[other_side].get() +
            (std::is_same_v<Role, RowRole<T>> ? j : i) * kTile;
        for (int64_t u = 0; u < role.anchors(); ++u) {
          const V mine = Role::of_anchor(log_sum[side].get() + block.begin, u);
          T* place = Role::place(pulls[side], block.begin, u);
          V pull = load<T>(place), cost = {};
          for (int64_t o = 0; o < role.others(); ++o) {
            const V both = joined(mine, Role::of_other(of_others, o));
            const V x = hinge(both - role.value(u, o));
            const auto same = same_class<T, Role>(block, u, o);
            cost += same ? x * x / 2 : V{};
            pull += same ? x * simd::exp(mine - both) : V{};
          }
          simd::store(place, pull);
          if (side == 0) {
            loss.of_block[block.begin / kTile] += role.real(cost, u);
          }
        }
      });
    });
    for (int side = 0; side < sides; ++side) {
      const int64_t count = side == 0 ? a.count : b.count, offset = side == 0 ? 0 : a.count;
      for (int64_t i = 0; i < count; ++i) {
        // In a set with itself a row is in each of its pairs twice: as the first and as the second of the two.
        job.row(1)[offset + i] = merged_sum(pulls[side], i) * (sets.symmetric ? 2 : 1);
      }
    }
    job.total(0) = job.reduction == Reduction::mean ? count_pairs(sets).same : 1;
    return share(loss.total(), job.total(0));
  }

  V hinge(V x) const {
    x -= positive_margin;
    return x <= 0 ? V{} : x;
  }
  // log(eᵃ + eᵇ)
  static V joined(V a, V b) {
    const V difference = a - b, size = difference < 0 ? -difference : difference;
    return simd::maximum(a, b) + simd::log1p(simd::exp(-size));
  }
  void prepare(const Job& job, double grad, bool) {
    scale = static_cast<T>(share(grad, job.total(0)));
  }
  // Rows of `saved`: log Σ exp(margin − d) over negatives, the pull on that sum. Slopes are towards v = −d.
  V different(const V* anchor, V v) const {
    return scale * anchor[1] * simd::exp(shift + v - anchor[0]);
  }
  V same(const V* anchor, const V* other, V v) const {
    return -scale * hinge(joined(anchor[0], other[0]) - v);
  }
};

} // namespace robustdml::pairs
