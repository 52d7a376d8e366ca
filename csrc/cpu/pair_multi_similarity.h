// Multi-similarity with its mining (MDProp, equations 14 and 15): positives first, since the weakest one decides which
// negatives count; then one sweep over all pairs; then the positives that the strongest negative lets count.
#pragma once

#include "pair_job.h"
#include "pair_roles.h"

namespace robustdml::pairs {

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

} // namespace robustdml::pairs
