// Nearest neighbors: exact top-k, and counts of the items before the nearest one of the same class. Tiles of
// scores are looked at while they are in cache; where queries are the gallery each tile serves its rows and its
// columns.
#include "neighbors_ahead.h"
#include "neighbors_lists.h"

namespace robustdml {
namespace {

using namespace nearest;

struct Problem : Sets {
  using Sets::Sets;

  template <typename scalar_t>
  accumulate_t<scalar_t> scale() const {
    using T = accumulate_t<scalar_t>;
    if (!euclidean()) {
      return T(1);
    }
    T largest = largest_entry<T>(data<scalar_t>(queries), count(), depth());
    if (gallery) {
      largest = std::max(largest, largest_entry<T>(data<scalar_t>(*gallery), item_count(), depth()));
    }
    return largest > T(0) ? scale_to_one(largest) : T(1);
  }

  template <typename scalar_t, typename T>
  Rows<T> pack(const Tensor& rows, T scale, const int64_t* order, Operand operand) const {
    return pack_rows<T>(data<scalar_t>(rows), rows.size(0), depth(), measure, scale, order, operand);
  }

  // Shows the visitor every tile.
  template <typename scalar_t, typename T, typename Visitor>
  void sweep(T scale, const Visitor& visitor) const {
    if (!gallery) {
      sweep_pairs(pack<scalar_t>(queries, scale, nullptr, Operand::both), euclidean(), visitor);
    } else {
      sweep_gallery(
          pack<scalar_t>(queries, scale, nullptr, Operand::left),
          pack<scalar_t>(*gallery, scale, nullptr, Operand::right), euclidean(), exclude_self, visitor);
    }
  }
  int64_t parts() const {
    return gallery ? gallery_parts(count(), item_count()) : 1;
  }
};

std::tuple<Tensor, Tensor> neighbors(
    Tensor queries, std::optional<Tensor> gallery, int64_t k, std::string distance_name, bool exclude_self) {
  STD_TORCH_CHECK(k >= 1 && k <= 1024, "neighbors: expected k from 1 to 1024, got ", k);
  const Problem problem(queries, gallery, distance_name, exclude_self);
  const int64_t count = problem.count();
  Tensor distances =
      new_empty_like_type(problem.queries, {count, k}, accumulate_type(problem.queries.scalar_type()));
  Tensor indices = new_empty_like_type(problem.queries, {count, k}, ScalarType::Long);
  dispatch_floating(problem.queries.scalar_type(), "neighbors", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const T scale = problem.scale<scalar_t>();
    const Lists<T> lists(count * problem.parts(), k);
    problem.sweep<scalar_t>(scale, lists);
    T* distance_data = mutable_data<T>(distances);
    int64_t* index_data = mutable_data<int64_t>(indices);
    parallel_tasks(count, 16 * k * problem.parts(), [&](int64_t query) {
      for (int64_t part = 1; part < problem.parts(); ++part) {
        lists.merge(query, part * count + query);
      }
      lists.write(query, [&](int64_t place, T score, int32_t index) {
        distance_data[query * k + place] = distance(score, problem.measure, scale);
        index_data[query * k + place] = index;
      });
    });
  });
  return {distances, indices};
}

void check_indices(const char* name, const Tensor& tensor, int64_t length, int64_t bound) {
  STD_TORCH_CHECK(
      tensor.dim() == 1 && tensor.size(0) == length && tensor.scalar_type() == ScalarType::Long,
      "items_ahead: expected ", name, " int64 [", length, "]");
  const int64_t* values = data<int64_t>(tensor);
  for (int64_t i = 0; i < length; ++i) {
    STD_TORCH_CHECK(values[i] >= 0 && values[i] < bound, "items_ahead: ", name, " holds ", values[i]);
  }
}

Tensor items_ahead(
    Tensor queries, std::optional<Tensor> gallery, Tensor query_order, Tensor members, Tensor begin, Tensor end,
    std::string distance_name, bool exclude_self) {
  const Problem problem(queries, gallery, distance_name, exclude_self);
  const int64_t count = problem.count(), items = problem.item_count();
  const Tensor order = as_contiguous(query_order), of_class = as_contiguous(members);
  const Tensor first = as_contiguous(begin), last = as_contiguous(end);
  check_indices("query_order", order, count, count);
  check_indices("members", of_class, items, items);
  check_indices("begin", first, count, items + 1);
  check_indices("end", last, count, items + 1);
  const Classes classes{data<int64_t>(order), data<int64_t>(of_class), data<int64_t>(first), data<int64_t>(last)};
  Tensor counts = new_empty_like_type(problem.queries, {count}, ScalarType::Long);
  dispatch_floating(problem.queries.scalar_type(), "items_ahead", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const T scale = problem.scale<scalar_t>();
    const Thresholds<T> nearest(count, std::numeric_limits<T>::infinity());
    nearest_of_class(
        problem.pack<scalar_t>(problem.queries, scale, classes.query_order, Operand::left),
        problem.pack<scalar_t>(problem.items(), scale, classes.members, Operand::right), classes,
        problem.euclidean(), problem.exclude_self, nearest);
    const Ahead<T> ahead(nearest, count * problem.parts());
    problem.sweep<scalar_t>(scale, ahead);
    int64_t* result = mutable_data<int64_t>(counts);
    for (int64_t query = 0; query < count; ++query) {
      int64_t total = 0;
      for (int64_t part = 0; part < problem.parts(); ++part) {
        total += ahead.counts()[part * count + query];
      }
      result[query] = nearest.indices[query] < 0 ? kNoneOfTheClass : total;
    }
  });
  return counts;
}

}  // namespace
}  // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("neighbors", TORCH_BOX(&robustdml::neighbors));
  library.impl("items_ahead", TORCH_BOX(&robustdml::items_ahead));
}
