// What "nearer" means, on the CPU and on CUDA: how scores are made of products, ordered, and turned into
// distances.
//
// A pair's score is larger where it is nearer: ⟨x, y⟩ of unit rows for cosine distances, and for Euclidean ones
// ⟨x, y⟩ − (|x|²/2 + |y|²/2) = −|x − y|²/2. Both are the same bits for (x, y) and (y, x), as long as products are:
// a tile of scores serves the lists of its rows and of its columns, and equal rows tie and are at distance 0
// exactly.
#pragma once

#include "host_device.h"
#include "tensor.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

namespace robustdml::nearest {

enum class Measure { cosine, euclidean, squared_euclidean };

template <typename T>
ROBUSTDML_HOST_DEVICE T euclidean_score(T product, T half_x, T half_y) {
  return product - (half_x + half_y);
}

// Equal scores are ordered by the lower index. NaN is before nothing.
template <typename T, typename Index>
ROBUSTDML_HOST_DEVICE bool before(T score, Index index, T than_score, Index than_index) {
  return score > than_score || (score == than_score && index < than_index);
}

// The power of two that brings `largest` to about 1. Multiplying by it rounds nothing, equal distances stay equal,
// and no square overflows or vanishes. Bounded so that it and its inverse are normal numbers.
template <typename T>
ROBUSTDML_HOST_DEVICE T scale_to_one(T largest) {
  constexpr int bound = std::numeric_limits<T>::max_exponent - 3;
  using std::frexp, std::ldexp;
  int exponent = 0;
  frexp(largest, &exponent);
  exponent = exponent < -bound ? -bound : (exponent > bound ? bound : exponent);
  return ldexp(T(1), -exponent);
}

// `scale`: what rows were multiplied by. A place that no item fills has score −∞ and distance ∞.
template <typename T>
ROBUSTDML_HOST_DEVICE T distance(T score, Measure measure, T scale) {
  if (measure == Measure::cosine) {
    const T value = T(1) - score;
    return value > T(0) ? value : T(0);
  }
  using std::sqrt;
  const T square = score < T(0) ? T(-2) * score : T(0);
  return measure == Measure::euclidean ? sqrt(square) / scale : square / scale / scale;
}

// ------------------------------------------------------------------------------------------- an operator's
// arguments

// Queries and, where it is another set, the gallery: checked and contiguous.
struct Sets {
  Tensor queries;
  std::optional<Tensor> gallery;
  Measure measure;
  bool exclude_self;

  Sets(const Tensor& q, const std::optional<Tensor>& g, const std::string& distance, bool exclude)
      : queries(q), gallery(g), measure(measure_of(distance)), exclude_self(exclude || !g) {
    STD_TORCH_CHECK(q.dim() == 2, "neighbors: expected queries [N, D]");
    queries = as_contiguous(q);
    if (g) {
      STD_TORCH_CHECK(
          g->dim() == 2 && g->size(1) == q.size(1) && g->scalar_type() == q.scalar_type() &&
              (!exclude || g->size(0) == q.size(0)),
          "neighbors: expected a gallery [M, D] of the queries' D and dtype, and of their N where self is "
          "excluded");
      gallery = as_contiguous(*g);
    }
    // Indices are kept as int32, and tiles reach past the last row.
    STD_TORCH_CHECK(
        count() < std::numeric_limits<int32_t>::max() - 1024 &&
            items().size(0) < std::numeric_limits<int32_t>::max() - 1024,
        "neighbors: too many rows");
  }

  const Tensor& items() const {
    return gallery ? *gallery : queries;
  }
  int64_t count() const {
    return queries.size(0);
  }
  int64_t item_count() const {
    return items().size(0);
  }
  int64_t depth() const {
    return queries.size(1);
  }
  bool euclidean() const {
    return measure != Measure::cosine;
  }

 private:
  static Measure measure_of(const std::string& name) {
    STD_TORCH_CHECK(
        name == "cosine" || name == "euclidean" || name == "squared_euclidean", "neighbors: no distance ", name);
    return name == "cosine" ? Measure::cosine
                            : (name == "euclidean" ? Measure::euclidean : Measure::squared_euclidean);
  }
};

// Which items are of each query's class: members[begin[i]] … members[end[i] − 1], the lowest index first.
struct Classes {
  const int64_t* query_order;  // [N], queries of one class side by side
  const int64_t* members;      // [M], items of one class side by side
  const int64_t *begin, *end;  // [N]
};

// What items_ahead gives where there is no item of the class.
constexpr int64_t kNoneOfTheClass = std::numeric_limits<int64_t>::max();

}  // namespace robustdml::nearest
