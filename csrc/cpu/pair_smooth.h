// Pair losses whose pairs meet only through sums: each is a forward pass that gathers the sums of every anchor, and the
// slope of the loss towards one pair's value, given the sums of both its rows.
#pragma once

#include "pair_roles.h"

#include <array>

namespace robustdml::pairs {

enum class Reduction { sum, mean, nonzero };

// What an operator call asks for, and what its forward pass leaves to its backward pass.
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

// --------------------------------------------------------------------------- multi-similarity (MDProp, eq. 14 and 15)

template <typename T>
struct MultiSimilarity {
  static constexpr Measure measure = Measure::inner_product;
  static constexpr bool anchors_only = true; // the second set has no sums of its own
  T alpha, beta, base, scale = 0;
  double epsilon;

  explicit MultiSimilarity(const Job& job)
      : alpha(T(job.parameters[0])), beta(T(job.parameters[1])), base(T(job.parameters[2])),
        epsilon(job.parameters[3]) {}

  double forward(const Sets<T>& sets, const Job& job) const {
    using V = Vector<T>;
    const Side<T>& a = sets.anchors;
    Tiles<T> tiles(sets, measure);
    auto overlap = [&](int64_t i, int64_t j) { return sets.overlap(i, j); };

    // Positives first: the weakest one decides which negatives count.
    constexpr T none = std::numeric_limits<T>::infinity();
    Lanes<T> weakest(a.padded, none);
    sweep(sets, overlap, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), sets.symmetric && i != j, [&](auto role, auto& block, auto) {
        using Role = decltype(role);
        for (int64_t u = 0; u < role.anchors(); ++u) {
          T* place = Role::place(weakest, block.begin, u);
          V least = load<T>(place);
          for (int64_t o = 0; o < role.others(); ++o) {
            least = simd::minimum(same_class<T, Role>(block, u, o) ? role.value(u, o) : splat(none), least);
          }
          simd::store(place, least);
        }
      });
    });
    Buffer<T> least(a.padded), enough(a.padded), lowest(a.padded);
    for (int64_t i = 0; i < a.padded; ++i) {
      T value = weakest.columns[i];
      for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
        value = std::min(value, weakest.rows[i * kLanes<T> + lane]);
      }
      lowest[i] = value;
      least[i] = static_cast<T>(value - T(epsilon));
    }

    Lanes<T> strongest(a.padded, kNothing<T>), negative(a.padded, T(0));
    sweep(sets, [&](int64_t i, int64_t j) { return sets.has_negatives(i, j); }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(
          sets, i, j, tiles.get(i, j, scratch), sets.symmetric && i != j, [&](auto role, auto& block, auto masked) {
            add_exponentials(role, block, masked, beta, least.get() + block.begin, strongest, negative);
          });
    });
    double* log_negative = job.row(2);
    for (int64_t i = 0; i < a.count; ++i) {
      const auto [largest, log_sum] = merged_log_sum(strongest, negative, i, static_cast<double>(beta));
      const bool found = largest > static_cast<double>(kNothing<T>);
      enough[i] = found ? static_cast<T>(static_cast<T>(largest) + T(epsilon)) : -none;
      const double x = log_sum - static_cast<double>(beta * base);
      log_negative[i] = x != x ? x : std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    }

    Lanes<T> positive(a.padded, T(0));
    sweep(sets, overlap, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), sets.symmetric && i != j, [&](auto role, auto& block, auto) {
        using Role = decltype(role);
        for (int64_t u = 0; u < role.anchors(); ++u) {
          const V most = Role::of_anchor(enough.get() + block.begin, u);
          const V first = Role::of_anchor(lowest.get() + block.begin, u);
          T* place = Role::place(positive, block.begin, u);
          V sum = load<T>(place);
          for (int64_t o = 0; o < role.others(); ++o) {
            const V v = role.value(u, o);
            const V e = v >= most ? V{} : simd::exp(alpha * (first - v));
            sum += same_class<T, Role>(block, u, o) ? e : V{};
          }
          simd::store(place, sum);
        }
      });
    });
    double* log_positive = job.row(3);
    double loss = 0;
    for (int64_t i = 0; i < a.count; ++i) {
      const double sum = merged_sum(positive, i);
      const double x = sum == 0 ? -1e30
                                : std::log(sum) - static_cast<double>(alpha) *
                                      (static_cast<double>(lowest[i]) - static_cast<double>(base));
      log_positive[i] = x != x ? x : std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
      job.row(0)[i] = static_cast<double>(least[i]);
      job.row(1)[i] = static_cast<double>(enough[i]);
      loss += log_positive[i] / static_cast<double>(alpha) + log_negative[i] / static_cast<double>(beta);
    }
    job.total(0) = job.reduction == Reduction::mean ? static_cast<double>(a.count) : 1.0;
    return share(loss, job.total(0));
  }

  void prepare(const Job& job, double grad, bool) {
    scale = static_cast<T>(grad / job.total(0));
  }
  // Rows of `saved`: least negative, most positive, log(1 + Σ) of either.
  using V = Vector<T>;
  V different(const V* anchor, V v) const {
    const V e = scale * simd::exp(beta * (v - base) - anchor[2]);
    return v <= anchor[0] ? V{} : e;
  }
  V same(const V* anchor, const V*, V v) const {
    const V e = -scale * simd::exp(-alpha * (v - base) - anchor[3]);
    return v >= anchor[1] ? V{} : e;
  }
};

// ------------------------------------------------------------ losses of single pairs: contrastive, binomial deviance

// [v − pos_margin]₊ᵖ and [neg_margin − v]₊ᵖ.
template <typename T, Measure of, int power>
struct Contrastive {
  static constexpr Measure measure = of;
  using V = Vector<T>;
  T positive_margin, negative_margin;
  explicit Contrastive(const Job& job)
      : positive_margin(T(job.parameters[0])), negative_margin(T(job.parameters[1])) {}
  static V hinge(V x) {
    return x <= 0 ? V{} : x; // keeps a NaN
  }
  static V raised(V x) {
    const V h = hinge(x);
    return power == 2 ? h * h : h;
  }
  static V slope(V x) {
    return power == 2 ? 2 * hinge(x) : (x <= 0 ? V{} : splat(T(1)));
  }
  V same(V v) const {
    return raised(v - positive_margin);
  }
  V different(V v) const {
    return raised(negative_margin - v);
  }
  V same_slope(V v) const {
    return slope(v - positive_margin);
  }
  V different_slope(V v) const {
    return -slope(negative_margin - v);
  }
};

// ECAML, eq. 10.
template <typename T>
struct Binomial {
  static constexpr Measure measure = Measure::inner_product;
  using V = Vector<T>;
  T alpha, beta, eta;
  explicit Binomial(const Job& job)
      : alpha(T(job.parameters[0])), beta(T(job.parameters[1])), eta(T(job.parameters[2])) {}
  V same(V v) const {
    return softplus(-alpha * (v - beta));
  }
  V different(V v) const {
    return softplus(alpha * eta * (v - beta));
  }
  V same_slope(V v) const {
    return -alpha * logistic(-alpha * (v - beta));
  }
  V different_slope(V v) const {
    return alpha * eta * logistic(alpha * eta * (v - beta));
  }
};

template <typename T, typename Pair>
struct OfPairs {
  static constexpr Measure measure = Pair::measure;
  static constexpr bool anchors_only = true;
  using V = Vector<T>;
  Pair pair;
  T same_scale = 0, different_scale = 0;
  explicit OfPairs(const Job& job) : pair(job) {}

  double forward(const Sets<T>& sets, const Job& job) const {
    const int64_t blocks = sets.anchors.blocks;
    BlockSums same(blocks), different(blocks), same_found(blocks), different_found(blocks);
    Tiles<T> tiles(sets, measure);
    sweep(sets, [](int64_t, int64_t) { return true; }, [&](int64_t i, int64_t j, T* scratch) {
      both_roles(sets, i, j, tiles.get(i, j, scratch), false, [&](auto role, auto& block, auto masked) {
        using Role = decltype(role);
        using Mask = simd::Mask<T>;
        double sums[2] = {}, found[2] = {};
        for (int64_t u = 0; u < role.anchors(); ++u) {
          V of_same = {}, of_different = {};
          Mask same_count = {}, different_count = {};
          for (int64_t o = 0; o < role.others(); ++o) {
            const V v = role.value(u, o);
            V cost = pair.different(v);
            if constexpr (masked) {
              cost = other_class<T, Role>(block, u, o) ? cost : V{};
              const V near = same_class<T, Role>(block, u, o) ? pair.same(v) : V{};
              of_same += near;
              same_count -= near > 0;
            }
            of_different += cost;
            different_count -= cost > 0;
          }
          sums[0] += total<T>(of_same);
          sums[1] += total<T>(of_different);
          for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
            found[0] += static_cast<double>(same_count[lane]);
            found[1] += static_cast<double>(different_count[lane]);
          }
        }
        const double times = sets.symmetric && i != j ? 2 : 1;
        same.of_block[i] += times * sums[0];
        different.of_block[i] += times * sums[1];
        same_found.of_block[i] += times * found[0];
        different_found.of_block[i] += times * found[1];
      });
    });
    const PairCounts counts = count_pairs(sets);
    job.total(0) = job.total(1) = 1;
    if (job.reduction == Reduction::mean) {
      job.total(0) = counts.same;
      job.total(1) = counts.different;
    } else if (job.reduction == Reduction::nonzero) {
      job.total(0) = same_found.total();
      job.total(1) = different_found.total();
    }
    // A NaN is above nothing: it must not be lost in a count of 0.
    auto part = [](double sum, double count) { return sum != sum ? sum : share(sum, count); };
    return part(same.total(), job.total(0)) + part(different.total(), job.total(1));
  }

  void prepare(const Job& job, double grad, bool) {
    same_scale = static_cast<T>(share(grad, job.total(0)));
    different_scale = static_cast<T>(share(grad, job.total(1)));
  }
  V different(const V*, V v) const {
    return different_scale * pair.different_slope(v);
  }
  V same(const V*, const V*, V v) const {
    return same_scale * pair.same_slope(v);
  }
};

// ------------------------------------------------------------------------------------------------ N-pair (ECAML, eq. 9)

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
