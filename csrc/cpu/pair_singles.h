// Losses that are sums over single pairs: contrastive, binomial deviance.
#pragma once

#include "pair_job.h"
#include "pair_roles.h"

namespace robustdml::pairs {

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

} // namespace robustdml::pairs
