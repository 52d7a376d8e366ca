// Nearest neighbors on CUDA: exact top-k, and counts of the items before the nearest one of the same class.
#include "neighbors_nearest.cuh"
#include "neighbors_select.cuh"

namespace robustdml {
namespace {

using namespace nearest;

constexpr int64_t kStripBytes = int64_t{32} << 20;  // of scores on their way from the products to the selection
constexpr int64_t kStripItems = 16384;

// Rows with the memory they lie in.
template <typename T>
struct Prepared {
  Tensor panels, half;
  Rows<T> rows;
};

template <typename scalar_t>
struct Search : Sets {
  using T = accumulate_t<scalar_t>;
  Device device;
  Tensor scale_memory;
  const T* scale = nullptr;  // of Euclidean distances

  Search(const Sets& sets) : Sets(sets), device(sets.queries) {
    if (euclidean()) {
      scale_memory = empty<T>({1});
      const Tensor maxima = empty<T>({2 * kMostMaxima});
      T* largest = mutable_data<T>(maxima);
      int64_t blocks = 0;
      auto look = [&](const Tensor& rows) {
        const int64_t count = rows.size(0), here = std::min(divide_up(count, int64_t{kRowsOfBlock}), kMostMaxima);
        launch(
            device, largest_entries<T, scalar_t>, here, 1, dim3(kWarp, kRowsOfBlock), data<scalar_t>(rows), count,
            depth(), largest + blocks);
        blocks += here;
      };
      look(queries);
      if (gallery) {
        look(*gallery);
      }
      T* to = mutable_data<T>(scale_memory);
      launch(device, choose_scale<T>, 1, 1, dim3(1), largest, blocks, to);
      scale = to;
    }
  }

  template <typename Type>
  Tensor empty(std::vector<int64_t> sizes) const {
    const ScalarType type = std::is_same_v<Type, double>    ? ScalarType::Double
                            : std::is_same_v<Type, float>   ? ScalarType::Float
                            : std::is_same_v<Type, int32_t> ? ScalarType::Int
                                                            : ScalarType::Long;
    return new_empty_like_type(queries, std::move(sizes), type);
  }

  Prepared<T> prepare(const Tensor& from, const int64_t* order = nullptr) const {
    const int64_t count = from.size(0), tiles = tiles_of(count),
                  padded = divide_up(depth(), int64_t{kStep}) * kStep;
    Prepared<T> made{empty<T>({std::max<int64_t>(tiles * kSide * padded, 1)}), empty<T>({tiles * kSide + 1}), {}};
    T *panels = mutable_data<T>(made.panels), *half = mutable_data<T>(made.half);
    launch(
        device, prepare_rows<T, scalar_t>, tiles * (kSide / kRowsOfBlock), 1, dim3(kWarp, kRowsOfBlock),
        data<scalar_t>(from), order, count, depth(), padded, scale, panels);
    launch(device, half_squares<T>, tiles, 1, dim3(kSide), panels, padded, euclidean(), half);
    made.rows = {panels, half, count, padded};
    return made;
  }

  // Best scores and indices [parts · N].
  std::pair<Tensor, Tensor> nearest(
      const Prepared<T>& left, const Prepared<T>& right, const Classes& classes, int64_t parts) const {
    Tensor scores = empty<T>({parts * count()}), indices = empty<int32_t>({parts * count()});
    const int64_t tiles_of_part = divide_up(tiles_of(item_count()), parts);
    const Tensor inverse = empty<int32_t>({item_count()});
    int32_t* places = mutable_data<int32_t>(inverse);
    if (classes.members != nullptr && exclude_self) {
      launch(
          device, invert, divide_up(item_count(), int64_t{kThreads}), 1, dim3(kThreads), classes.members,
          item_count(), places);
    }
    launch(
        device, nearest_items<T>, tiles_of(count()), parts, dim3(kThreads), left.rows, right.rows, classes, places,
        exclude_self, tiles_of_part, mutable_data<T>(scores), mutable_data<int32_t>(indices));
    return {scores, indices};
  }

  void one_neighbor(T* distances, int64_t* indices) const {
    const Prepared<T> left = prepare(queries), right = gallery ? prepare(*gallery) : left;
    // Enough blocks for the whole device, where there are few queries.
    const int64_t blocks = std::max<int64_t>(tiles_of(count()), 1);
    const int64_t parts = std::clamp<int64_t>(
        4 * device.multiprocessors() / blocks, 1, std::max<int64_t>(tiles_of(item_count()), 1));
    const auto [best, best_indices] = nearest(left, right, Classes{}, parts);
    launch(
        device, write_nearest<T>, divide_up(count(), int64_t{kThreads}), 1, dim3(kThreads), data<T>(best),
        data<int32_t>(best_indices), count(), parts, measure, scale, distances, indices);
  }

  void many_neighbors(int64_t k, T* distances, int64_t* indices) const {
    const Prepared<T> left = prepare(queries), right = gallery ? prepare(*gallery) : left;
    const int64_t query_tiles = tiles_of(count()), item_tiles = std::max<int64_t>(tiles_of(item_count()), 1);
    const int64_t width = std::min(kStripItems / kSide, item_tiles);
    const int64_t height = std::clamp<int64_t>(
        kStripBytes / int64_t{sizeof(T)} / (width * kSide * kSide), 1, std::max<int64_t>(query_tiles, 1));
    const Tensor strip = empty<T>({height * kSide, width * kSide});
    T* scores = mutable_data<T>(strip);
    for (int64_t i = 0; i < query_tiles; i += height) {
      for (int64_t j = 0; j < item_tiles; j += width) {
        const int64_t rows = std::min(height, query_tiles - i),
                      columns = std::min(width, tiles_of(item_count()) - j);
        launch(
            device, write_scores<T>, columns, rows, dim3(kThreads), left.rows, i, right.rows, j, exclude_self,
            width * kSide, scores);
        launch(
            device, select_best<T>, std::min(rows * kSide, count() - i * kSide), 1, dim3(kThreads), scores,
            width * kSide, std::min(columns * kSide, item_count() - j * kSide), i * kSide, j * kSide, k, j == 0,
            j + width >= item_tiles, measure, scale, distances, indices);
      }
    }
  }

  void ahead(const Classes& classes, int64_t* counts) const {
    Tensor floats = empty<T>({2, count()}), integers = empty<int32_t>({count()});
    T* scores = mutable_data<T>(floats);
    const Thresholds<T> thresholds{scores, scores + count(), mutable_data<int32_t>(integers)};
    {
      const Prepared<T> left = prepare(queries, classes.query_order), right = prepare(items(), classes.members);
      const auto [best, best_indices] = nearest(left, right, classes, 1);
      launch(
          device, begin_count<T>, divide_up(count(), int64_t{kThreads}), 1, dim3(kThreads), data<T>(best),
          data<int32_t>(best_indices), count(), thresholds, counts);
    }
    const Prepared<T> left = prepare(queries), right = gallery ? prepare(*gallery) : left;
    launch(
        device, count_ahead<T>, tiles_of(item_count()), tiles_of(count()), dim3(kThreads), left.rows, right.rows,
        !gallery, exclude_self, thresholds, counts);
  }
};

std::tuple<Tensor, Tensor> neighbors(
    Tensor queries, std::optional<Tensor> gallery, int64_t k, std::string distance_name, bool exclude_self) {
  STD_TORCH_CHECK(k >= 1 && k <= 1024, "neighbors: expected k from 1 to 1024, got ", k);
  check_device("neighbors", queries, gallery);
  const Sets sets(queries, gallery, distance_name, exclude_self);
  Tensor distances = new_empty_like_type(sets.queries, {sets.count(), k}, accumulate_type(queries.scalar_type()));
  Tensor indices = new_empty_like_type(sets.queries, {sets.count(), k}, ScalarType::Long);
  dispatch_floating(queries.scalar_type(), "neighbors", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    const Search<scalar_t> search(sets);
    auto* to = mutable_data<accumulate_t<scalar_t>>(distances);
    if (k == 1) {
      search.one_neighbor(to, mutable_data<int64_t>(indices));
    } else {
      search.many_neighbors(k, to, mutable_data<int64_t>(indices));
    }
  });
  return {distances, indices};
}

// Values of the index tensors are checked where they are used: a look here would wait for the device.
Tensor items_ahead(
    Tensor queries, std::optional<Tensor> gallery, Tensor query_order, Tensor members, Tensor begin, Tensor end,
    std::string distance_name, bool exclude_self) {
  check_device("items_ahead", queries, gallery);
  check_device("items_ahead", queries, {&query_order, &members, &begin, &end});
  const Sets sets(queries, gallery, distance_name, exclude_self);
  auto checked = [](const char* name, const Tensor& tensor, int64_t length) {
    STD_TORCH_CHECK(
        tensor.dim() == 1 && tensor.size(0) == length && tensor.scalar_type() == ScalarType::Long,
        "items_ahead: expected ", name, " int64 [", length, "]");
    return as_contiguous(tensor);
  };
  const Tensor order = checked("query_order", query_order, sets.count());
  const Tensor of_class = checked("members", members, sets.item_count());
  const Tensor first = checked("begin", begin, sets.count()), last = checked("end", end, sets.count());
  const Classes classes{data<int64_t>(order), data<int64_t>(of_class), data<int64_t>(first), data<int64_t>(last)};
  Tensor counts = new_empty_like_type(sets.queries, {sets.count()}, ScalarType::Long);
  dispatch_floating(queries.scalar_type(), "items_ahead", [&](auto type) {
    Search<typename decltype(type)::type>(sets).ahead(classes, mutable_data<int64_t>(counts));
  });
  return counts;
}

}  // namespace
}  // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("neighbors", TORCH_BOX(&robustdml::neighbors));
  library.impl("items_ahead", TORCH_BOX(&robustdml::items_ahead));
}
