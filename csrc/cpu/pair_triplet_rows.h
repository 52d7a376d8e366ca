// Triplet losses, exact over all triplets without a list of them. With the positives' thresholds t_p = v_ip + margin of
// an anchor sorted, a negative at v violates those above it: how many they are and what they sum to gives its cost and
// its slope, O(log P) a negative. Rows are worked on in strips, which hold all distances of a few anchors.
#pragma once

#include "pair_job.h"
#include "pair_roles.h"

namespace robustdml::pairs {

constexpr int64_t kStrip = 24; // anchors of a strip: whole register blocks at every width

template <typename T>
class Triplets {
 public:
  struct Positive {
    T value;
    int64_t place;
  };
  struct Found {
    double cost = 0, count = 0, triplets = 0; // count: triplets that cost; triplets: all there are
    Positive far = {T(0), -1}, near = {T(0), -1}; // the hardest, where those are asked for
  };

  Triplets(const Sets<T>& sets, const Job& job)
      : sets_(sets), margin_(T(job.parameters[0])), squared_(job.squared), semihard_(job.kind == "triplet_semihard"),
        hardest_(job.kind == "triplet_hardest") {}

  int64_t strips() const {
    return (sets_.anchors.count + kStrip - 1) / kStrip;
  }
  int64_t strip_size() const {
    return kStrip * sets_.others().padded;
  }
  int64_t rows_of(int64_t strip) const {
    return std::min(kStrip, sets_.anchors.count - strip * kStrip);
  }

  // From the slope towards a distance to that towards the inner product.
  T through(T slope, T value) const {
    return squared_ ? T(-2) * slope : value > 0 ? -slope / value : T(0);
  }

  // Distances of a strip's anchors to all others, as tiles [blocks][kStrip][kTile]; infinity past the last column.
  void measure(int64_t strip, T* tiles) const {
    const Side<T>&a = sets_.anchors, &b = sets_.others();
    for (int64_t j = 0; j < b.blocks; ++j) {
      T* tile = tiles + j * kStrip * kTile;
      gemm::inner_products<T>(
          a.left.get() + strip * kStrip * a.depth, rows_of(strip), b.right_of(j), b.rows_of(j), a.depth, tile, kTile);
      to_distances(
          sets_, strip * kStrip, rows_of(strip), j, tile, squared_ ? Measure::squared_distance : Measure::distance);
      for (int64_t r = 0; r < rows_of(strip); ++r) {
        std::fill(tile + r * kTile + b.rows_of(j), tile + (r + 1) * kTile, kInfinity);
      }
    }
  }

  // Cost of the triplets of one anchor. With `weights`, its distances become the slopes of the cost towards the inner
  // products, times `scale`.
  template <bool weights>
  Found row(int64_t strip, int64_t r, T* tiles, T scale) {
    const Side<T>&a = sets_.anchors, &b = sets_.others();
    const int64_t i = strip * kStrip + r;
    T* values = tiles + r * kTile;
    const auto* codes = b.code.get();
    const auto [first, last] = std::equal_range(codes, codes + b.count, a.code[i]);
    const int64_t begin = first - codes, end = last - codes;
    positives_.clear();
    for (int64_t j = begin; j < end; ++j) {
      if (b.id[j] != a.id[i]) {
        positives_.push_back({at(values, j), j});
      }
      at(values, j) = kInfinity; // no triplet has it as its negative
    }
    const int64_t positives = static_cast<int64_t>(positives_.size()), negatives = b.count - (end - begin);
    Found found;
    if (positives > 0 && negatives > 0) {
      bool number = true;
      for (const Positive& p : positives_) {
        number = number && p.value == p.value;
      }
      found.triplets = hardest_ ? 1.0 : static_cast<double>(positives) * static_cast<double>(negatives);
      if (!number) {
        found.cost = std::numeric_limits<double>::quiet_NaN();
      } else if (hardest_) {
        hardest(values, found);
      } else {
        std::sort(positives_.begin(), positives_.end(), [](const Positive& p, const Positive& q) {
          return p.value != q.value ? p.value < q.value : p.place < q.place;
        });
        if (positives <= kFew) {
          few<weights>(values, scale, found);
        } else {
          many<weights>(values, scale, found);
        }
      }
      if constexpr (weights) {
        if (number) {
          return found;
        }
      }
    }
    if constexpr (weights) {
      for (int64_t j = 0; j < b.padded; ++j) {
        at(values, j) = found.cost == found.cost ? T(0) : static_cast<T>(found.cost);
      }
    }
    return found;
  }

 private:
  using V = Vector<T>;
  using I = integer_t<T>;
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr int64_t kFew = 64; // up to here, comparing with every threshold is faster than searching for one
  static constexpr int64_t lanes = kLanes<T>;

  static T& at(T* values, int64_t j) {
    return values[j / kTile * kStrip * kTile + j % kTile];
  }
  // Each negative against each threshold, a vector of negatives at a time.
  template <bool weights>
  void few(T* values, T scale, Found& found) {
    const int64_t count = static_cast<int64_t>(positives_.size());
    hits_.assign(count * lanes, 0);
    const V one = splat(T(1));
    for (int64_t block = 0; block < sets_.others().blocks; ++block) {
      T* part = values + block * kStrip * kTile;
      V cost = {};
      simd::Mask<T> hits = {};
      for (int64_t c = 0; c < kTile; c += lanes) {
        const V v = load<T>(part + c);
        V slope = {};
        for (int64_t p = 0; p < count; ++p) {
          const T threshold = positives_[p].value + margin_;
          const V over = threshold - v;
          V hinge = over <= 0 ? V{} : over; // keeps a NaN
          if (semihard_) {
            hinge = v <= positives_[p].value ? V{} : hinge;
          }
          cost += hinge;
          const auto hit = hinge > 0;
          hits -= hit;
          if constexpr (weights) {
            slope -= hit ? one : V{};
            I* place = hits_.data() + p * lanes;
            simd::store(place, load<I>(place) - hit);
          }
        }
        if constexpr (weights) {
          slope *= scale;
          simd::store(part + c, squared_ ? T(-2) * slope : (v > 0 ? -slope / v : V{}));
        }
      }
      found.cost += total<T>(cost);
      for (int64_t lane = 0; lane < lanes; ++lane) {
        found.count += static_cast<double>(hits[lane]);
      }
    }
    if constexpr (weights) {
      for (int64_t p = 0; p < count; ++p) {
        I sum = 0;
        for (int64_t lane = 0; lane < lanes; ++lane) {
          sum += hits_[p * lanes + lane];
        }
        at(values, positives_[p].place) = through(scale * static_cast<T>(sum), positives_[p].value);
      }
    }
  }

  // Thresholds above each negative by binary search, their sum from suffix sums.
  template <bool weights>
  void many(T* values, T scale, Found& found) {
    const int64_t count = static_cast<int64_t>(positives_.size());
    above_.assign(count + 1, 0.0); // above_[k]: sum of the thresholds from the k-th on
    for (int64_t p = count - 1; p >= 0; --p) {
      above_[p] = above_[p + 1] + static_cast<double>(positives_[p].value + margin_);
    }
    hits_.assign(count + 1, 0);
    // The first positive whose value, raised by `by`, is above v (at or above it: `level`).
    auto first_above = [&](T v, T by, bool level) {
      int64_t low = 0;
      for (int64_t length = count; length > 0;) {
        const int64_t half = length / 2;
        const T threshold = positives_[low + half].value + by;
        const bool right = level ? threshold < v : threshold <= v;
        low = right ? low + half + 1 : low;
        length = right ? length - half - 1 : half;
      }
      return low;
    };
    for (int64_t block = 0; block < sets_.others().blocks; ++block) {
      T* part = values + block * kStrip * kTile;
      for (int64_t c = 0; c < kTile; ++c) {
        const T v = part[c];
        if (v == kInfinity) {
          part[c] = weights ? T(0) : v;
          continue;
        }
        // Positives begin … end − 1 make triplets that cost.
        const int64_t begin = first_above(v, margin_, false);
        const int64_t end = semihard_ ? std::max(begin, first_above(v, T(0), true)) : count;
        const double hits = static_cast<double>(end - begin);
        found.cost += v == v ? above_[begin] - above_[end] - static_cast<double>(v) * hits : static_cast<double>(v);
        found.count += hits;
        if constexpr (weights) {
          ++hits_[begin];
          --hits_[end];
          part[c] = through(-scale * static_cast<T>(hits), v);
        }
      }
    }
    if constexpr (weights) {
      I sum = 0;
      for (int64_t p = 0; p < count; ++p) {
        sum += hits_[p];
        at(values, positives_[p].place) = through(scale * static_cast<T>(sum), positives_[p].value);
      }
    }
  }

  // The farthest positive and the nearest negative, ties to the smaller row.
  void hardest(const T* values, Found& found) {
    const Side<T>& b = sets_.others();
    auto before = [&](int64_t j, int64_t k) { return k < 0 || b.order[j] < b.order[k]; };
    found.far = positives_[0];
    for (const Positive& p : positives_) {
      if (p.value > found.far.value || (p.value == found.far.value && before(p.place, found.far.place))) {
        found.far = p;
      }
    }
    V least = splat(kInfinity);
    simd::Mask<T> strange = {};
    for (int64_t block = 0; block < b.blocks; ++block) {
      for (int64_t c = 0; c < kTile; c += lanes) {
        const V v = load<T>(values + block * kStrip * kTile + c);
        least = simd::minimum(v, least);
        strange |= v != v;
      }
    }
    T smallest = kInfinity;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      smallest = std::min(smallest, least[lane]);
    }
    found.near = {smallest, -1};
    for (int64_t block = 0; block < b.blocks && smallest < kInfinity; ++block) {
      const T* part = values + block * kStrip * kTile;
      int64_t equal = 0;
#pragma omp simd reduction(+ : equal)
      for (int64_t c = 0; c < kTile; ++c) {
        equal += part[c] == smallest;
      }
      for (int64_t c = 0; c < kTile && equal > 0; ++c) {
        if (part[c] == smallest && before(block * kTile + c, found.near.place)) {
          found.near.place = block * kTile + c;
        }
      }
    }
    const T cost = found.far.value - smallest + margin_;
    found.cost = simd::any(strange) ? std::numeric_limits<double>::quiet_NaN()
        : cost > 0                  ? static_cast<double>(cost)
                                    : 0.0;
    found.count = cost > 0;
  }

  const Sets<T>& sets_;
  const T margin_;
  const bool squared_, semihard_, hardest_;
  std::vector<Positive> positives_;
  std::vector<double> above_;
  std::vector<I> hits_;
};

} // namespace robustdml::pairs
