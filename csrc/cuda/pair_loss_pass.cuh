// The operator's arguments, scratch memory and strips, as the forward and the backward pass share them.
#pragma once

#include "../common/products.h"
#include "pair_loss_rows.cuh"
#include "pair_loss_triplets.cuh"

#include <string>

namespace robustdml::pair {

constexpr int64_t kStripBytes = int64_t{24} << 20; // of an L2 cache of 50 MB, beside rows and labels
constexpr int64_t kLeastRows = 128;                // a product of fewer rows is bound by reading the columns
constexpr int64_t kMostColumns = int64_t{1} << 30;

struct Arguments {
  Tensor embeddings, labels;
  std::optional<Tensor> reference, reference_labels;
  int64_t self_offset;
  Kind kind;
  std::vector<double> parameters;
  bool normalize;
  Measure measure;
  Reduction reduction;

  Arguments(
      const Tensor& embeddings, const Tensor& labels, const std::optional<Tensor>& reference,
      const std::optional<Tensor>& reference_labels, int64_t self_offset, const std::string& kind,
      const std::vector<double>& parameters, bool normalize, bool squared, const std::string& reduction)
      : embeddings(as_contiguous(embeddings)), labels(as_contiguous(labels)), self_offset(self_offset),
        kind(kind_of(kind)), parameters(parameters), normalize(normalize),
        measure(measure_of(this->kind, squared)), reduction(reduction_of(reduction)) {
    check(embeddings, labels);
    STD_TORCH_CHECK(
        reference.has_value() == reference_labels.has_value(), "pair_loss: a reference and its labels go together");
    if (reference) {
      check(*reference, *reference_labels);
      STD_TORCH_CHECK(
          reference->scalar_type() == embeddings.scalar_type() && reference->size(1) == embeddings.size(1),
          "pair_loss: expected a reference [M, D] of the dtype of the embeddings");
      this->reference = as_contiguous(*reference);
      this->reference_labels = as_contiguous(*reference_labels);
    }
  }

  void check(const Tensor& rows, const Tensor& row_labels) const {
    STD_TORCH_CHECK(
        rows.dim() == 2 && row_labels.dim() == 1 && row_labels.size(0) == rows.size(0) &&
            row_labels.scalar_type() == ScalarType::Long && rows.size(0) < kMostColumns,
        "pair_loss: expected rows [N, D] and int64 labels [N]");
    check_device("pair_loss", embeddings, {&rows, &row_labels});
  }
  int64_t anchors() const {
    return embeddings.size(0);
  }
  int64_t columns() const {
    return reference ? reference->size(0) : anchors();
  }
  bool empty() const {
    return anchors() == 0 || columns() == 0;
  }
  // One column for every row, and one for totals.
  int64_t statistics() const {
    return anchors() + (reference ? columns() : 0) + 1;
  }
  bool sorted_triplets() const {
    return kind == Kind::triplet_all || kind == Kind::triplet_semihard;
  }
  bool two_sums() const {
    return kind == Kind::contrastive || kind == Kind::binomial;
  }
};

inline int64_t round_up(int64_t value, int64_t step) {
  return divide_up(value, step) * step;
}

inline Tensor zeros(const Tensor& model, std::vector<int64_t> sizes, ScalarType type) {
  Tensor result = new_empty_like_type(model, std::move(sizes), type);
  torch::stable::zero_(result);
  return result;
}

// Threads of a block that takes a row of so many accesses.
inline dim3 threads_for(int64_t accesses) {
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(round_up(accesses, kWarp), kWarp, kThreads)));
}

// Rows with the scratch memory that they lie in.
template <typename T>
struct Side {
  static constexpr ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  Tensor memory, values, squares, norms, labels;
  Rows<T> rows;

  Side(const Tensor& model, int64_t count, int64_t depth) {
    const int64_t stride = round_up(depth, kVector<T>); // so that products read aligned rows
    memory = new_empty_like_type(model, {count, stride}, type);
    values = torch::stable::narrow(memory, 1, 0, depth);
    squares = new_empty_like_type(model, {count}, type);
    norms = new_empty_like_type(model, {count}, ScalarType::Double);
    labels = new_empty_like_type(model, {round_up(count, kVector<T>)}, ScalarType::Long);
    rows = {mutable_data<T>(memory), mutable_data<T>(squares), mutable_data<double>(norms),
            mutable_data<int64_t>(labels), count, depth, stride};
  }
};

// Everything that both passes share.
template <typename scalar_t>
class Pass {
 public:
  using T = accumulate_t<scalar_t>;
  static constexpr ScalarType type = Side<T>::type;

  // forward: `saved` is about to be written.
  Pass(const Arguments& a, const Tensor& saved, bool forward)
      : a(a), device(a.embeddings), p(a.kind, a.parameters), anchors(a.embeddings, a.anchors(), a.embeddings.size(1)) {
    results = {mutable_data<double>(saved), a.statistics(), nullptr, a.anchors()};
    if (!forward) {
      statistics = new_empty_like_type(a.embeddings, {a.statistics(), 4}, type);
    }
    prepare(anchors, a.embeddings, a.labels, 0);
    if (a.reference) {
      second.emplace(a.embeddings, a.columns(), a.embeddings.size(1));
      prepare(*second, *a.reference, *a.reference_labels, a.anchors());
    }
    const bool spills = a.sorted_triplets() && a.columns() > kSharedPositives;
    stride = round_up(a.columns(), kVector<T>);
    const int64_t bytes = stride * static_cast<int64_t>(sizeof(T) + (spills ? sizeof(T) + 2 * sizeof(int) : 0));
    int64_t most = std::max(kStripBytes / bytes, kLeastRows);
    strip_rows = std::min(most - most % kLeastRows, a.anchors());
    products = new_empty_like_type(a.embeddings, {strip_rows, stride}, type);
    if (spills) {
      spilled = {
          new_empty_like_type(a.embeddings, {strip_rows, a.columns()}, type),
          new_empty_like_type(a.embeddings, {strip_rows, a.columns()}, ScalarType::Int),
          new_empty_like_type(a.embeddings, {strip_rows, a.columns() + 1}, ScalarType::Int)};
    }
  }

  const Side<T>& others() const {
    return second ? *second : anchors;
  }
  int64_t first_column() const {
    return second ? a.anchors() : 0;
  }
  Spill<T> spill() const {
    if (spilled.empty()) {
      return {nullptr, nullptr, nullptr, 0};
    }
    return {mutable_data<T>(spilled[0]), mutable_data<int>(spilled[1]), mutable_data<int>(spilled[2]), a.columns()};
  }

  // Calls body(strip, the same as a matrix) for all strips in order. Kernels of the forward pass leave a strip as it
  // is, so a lone one is there for the next sweep.
  template <typename Body>
  void each_strip(const Body& body) {
    for (int64_t first = 0; first < a.anchors(); first += strip_rows) {
      const int64_t rows = std::min(strip_rows, a.anchors() - first);
      Tensor whole = rows_of(products, 0, rows);
      const Tensor matrix = torch::stable::narrow(whole, 1, 0, a.columns());
      const int64_t nowhere = std::numeric_limits<int64_t>::min() / 2;
      const Strip<T> strip{
          mutable_data<T>(products), stride, first, static_cast<int>(rows), static_cast<int>(a.columns()),
          anchors.rows.labels, others().rows.labels,
          !second ? 0 : a.self_offset >= 0 ? a.self_offset : nowhere};
      if (!made) {
        matrix_product(matrix, rows_of(anchors.values, first, rows), transposed(others().values));
        if (a.measure != Measure::similarity) {
          launch(
              device, to_distances<T>, rows, 1, threads_for(a.columns()), strip, anchors.rows, others().rows,
              a.measure == Measure::squared_distance);
        }
        made = rows == a.anchors();
      }
      body(strip, matrix);
    }
  }

  // Starts a kernel that takes several anchors a block where there are enough of them for all multiprocessors.
  // choose(std::integral_constant<int, anchors a block>) gives the kernel.
  template <typename Choose, typename... Others>
  void launch_rows(const Strip<T>& strip, const Choose& choose, const Others&... others) {
    constexpr int several = 4;
    const dim3 threads = threads_for(divide_up(strip.columns, kVector<T>));
    if constexpr (std::is_same_v<T, float>) {
      if (strip.rows >= several * 128) {
        launch(
            device, choose(std::integral_constant<int, several>{}), divide_up(strip.rows, several), 1, threads, strip,
            p, others...);
        return;
      }
    }
    launch(device, choose(std::integral_constant<int, 1>{}), strip.rows, 1, threads, strip, p, others...);
  }

  template <typename Kernel, typename... Others>
  void launch_columns(const Kernel& kernel, const Strip<T>& strip, const Others&... others) {
    launch(device, kernel, divide_up(strip.columns, kWarp), 1, dim3(kWarp, kColumnWarps), strip, others...);
  }

  void finish(
      const Side<T>& side, const Tensor& products, const std::optional<Tensor>& more,
      const std::optional<Tensor>& weights, const std::optional<Tensor>& more_weights, const Tensor& grad,
      const Tensor& gradient) {
    launch(
        device, finish_rows<scalar_t, T>, divide_up(side.rows.count, kWarps), 1, dim3(kWarp, kWarps), side.rows,
        data<T>(products), data<T>(more), data<T>(weights), data<double>(more_weights), a.normalize, data<T>(grad),
        mutable_data<scalar_t>(gradient));
  }

  const Arguments& a;
  Device device;
  Parameters<T> p;
  Side<T> anchors;
  std::optional<Side<T>> second;
  std::optional<Tensor> statistics;
  Results results;
  int64_t stride, strip_rows;
  Tensor products;
  std::vector<Tensor> spilled;
  bool made = false;

 private:
  void prepare(const Side<T>& side, const Tensor& values, const Tensor& labels, int64_t first) {
    Statistics<T>* into =
        statistics ? reinterpret_cast<Statistics<T>*>(mutable_data<T>(*statistics)) + first : nullptr;
    launch(
        device, prepare_rows<scalar_t, T>, divide_up(side.rows.count, kWarps), 1, dim3(kWarp, kWarps),
        data<scalar_t>(values), data<int64_t>(labels), side.rows, a.normalize, results.statistics + first,
        results.stride, into, a.kind == Kind::triplet_hardest);
  }
};

} // namespace robustdml::pair
