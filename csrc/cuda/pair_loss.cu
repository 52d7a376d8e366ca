// Pair losses on CUDA: strips of the table of pairs, a few anchors by all columns, small enough for the L2 cache. A
// strip is made by the vendor's matrix product and met by a kernel of the loss's own while it is there; the backward
// pass makes it again, turns it into weights and multiplies these with the rows.
#include "pair_loss_columns.cuh"
#include "pair_loss_forward.cuh"
#include "pair_loss_pass.cuh"
#include "pair_loss_weights.cuh"

namespace robustdml {
namespace {

using namespace pair;

template <typename scalar_t>
void forward(const Arguments& a, const Tensor& loss, const Tensor& saved) {
  using T = accumulate_t<scalar_t>;
  Pass<scalar_t> pass(a, saved, true);
  Tensor partial = new_empty_like_type(a.embeddings, {4, a.anchors()}, ScalarType::Double);
  pass.results.partial = mutable_data<double>(partial);
  const bool nonzero = a.reduction == Reduction::nonzero;
  const Results& results = pass.results;
  auto each_kernel = [&](auto choose) {
    pass.each_strip([&](const Strip<T>& strip, const Tensor&) { pass.launch_rows(strip, choose, nonzero, results); });
  };
  switch (a.kind) {
    case Kind::contrastive:
      each_kernel([](auto rows) { return pair_terms<Kind::contrastive, rows(), T>; });
      break;
    case Kind::binomial:
      each_kernel([](auto rows) { return pair_terms<Kind::binomial, rows(), T>; });
      break;
    case Kind::npair:
      each_kernel([](auto rows) { return npair_terms<rows(), T>; });
      break;
    case Kind::lifted:
      pass.each_strip([&](const Strip<T>& strip, const Tensor&) {
        pass.launch_rows(strip, [](auto rows) { return lifted_log_sums<rows(), T>; }, nonzero, results);
        if (a.reference) {
          pass.launch_columns(column_log_sums<T>, strip, pass.p, results);
        }
      });
      pass.each_strip([&](const Strip<T>& strip, const Tensor&) {
        pass.launch_rows(
            strip, [](auto rows) { return lifted_terms<rows(), T>; }, pass.first_column(), results);
        if (a.reference) {
          pass.launch_columns(column_terms<T>, strip, pass.p, results);
        }
      });
      break;
    case Kind::triplet_hardest:
      each_kernel([](auto rows) { return hardest_terms<rows(), T>; });
      break;
    case Kind::multi_similarity:
      each_kernel([](auto rows) { return multi_similarity_terms<rows(), T>; });
      break;
    default:
      pass.each_strip([&](const Strip<T>& strip, const Tensor&) {
        launch(
            pass.device, sorted_triplets<T>, strip.rows, 1, threads_for(strip.columns), strip, pass.p[0],
            a.kind == Kind::triplet_semihard, nonzero, pass.spill(), results, a.measure, nullptr);
      });
  }
  launch(
      pass.device, conclude<T>, 1, 1, dim3(1024), results, pass.anchors.rows.squares, pass.others().rows.squares,
      pass.others().rows.count, a.reduction, a.two_sums(), mutable_data<T>(loss));
}

template <Kind kind, typename scalar_t>
void weights_of(Pass<scalar_t>& pass, const Strip<accumulate_t<scalar_t>>& strip, const Tensor& sums) {
  using T = accumulate_t<scalar_t>;
  const auto* of_anchors = reinterpret_cast<const Statistics<T>*>(data<T>(*pass.statistics));
  pass.launch_rows(
      strip, [](auto rows) { return pair_weights<kind, rows(), T>; }, of_anchors, of_anchors + pass.first_column(),
      pass.results, !pass.second.has_value(), pass.a.measure, mutable_data<T>(sums));
}

template <typename scalar_t>
void backward(
    const Arguments& a, const Tensor& grad, const Tensor& saved, const Tensor& grad_embeddings,
    const std::optional<Tensor>& grad_reference) {
  using T = accumulate_t<scalar_t>;
  Pass<scalar_t> pass(a, saved, false);
  const int64_t depth = a.embeddings.size(1), columns = a.columns();
  const bool distances = a.measure != Measure::similarity;
  // A sorted triplet's weight is known to its anchor alone: what (i, j) does to j is summed up over the strips.
  const bool towards_columns = grad_reference.has_value() || (!a.reference && a.sorted_triplets());
  const Tensor gradient = new_empty_like_type(a.embeddings, {a.anchors(), depth}, pass.type);
  const Tensor sums = new_empty_like_type(a.embeddings, {a.anchors()}, pass.type);
  std::optional<Tensor> of_columns, of_strip, sums_of_columns;
  if (towards_columns) {
    of_columns = new_empty_like_type(a.embeddings, {columns, depth}, pass.type);
    if (pass.strip_rows < a.anchors()) {
      of_strip = new_empty_like_type(a.embeddings, {columns, depth}, pass.type);
    }
    if (distances) {
      sums_of_columns = new_empty_like_type(a.embeddings, {columns}, ScalarType::Double);
    }
  }
  pass.each_strip([&](const Strip<T>& strip, const Tensor& matrix) {
    switch (a.kind) {
      case Kind::contrastive:
        weights_of<Kind::contrastive>(pass, strip, sums);
        break;
      case Kind::binomial:
        weights_of<Kind::binomial>(pass, strip, sums);
        break;
      case Kind::npair:
        weights_of<Kind::npair>(pass, strip, sums);
        break;
      case Kind::lifted:
        weights_of<Kind::lifted>(pass, strip, sums);
        break;
      case Kind::triplet_hardest:
        weights_of<Kind::triplet_hardest>(pass, strip, sums);
        break;
      case Kind::multi_similarity:
        weights_of<Kind::multi_similarity>(pass, strip, sums);
        break;
      default:
        launch(
            pass.device, sorted_triplets<T>, strip.rows, 1, threads_for(strip.columns), strip, pass.p[0],
            a.kind == Kind::triplet_semihard, false, pass.spill(), pass.results, a.measure, mutable_data<T>(sums));
    }
    matrix_product(rows_of(gradient, strip.first, strip.rows), matrix, pass.others().values);
    if (!towards_columns) {
      return;
    }
    const Tensor& sum = strip.first == 0 ? *of_columns : *of_strip;
    matrix_product(sum, transposed(matrix), rows_of(pass.anchors.values, strip.first, strip.rows));
    if (strip.first > 0) {
      const int64_t count = columns * depth;
      const int64_t blocks = std::min(divide_up(count, kThreads), pass.device.multiprocessors() * 16);
      launch(pass.device, add_to<T>, blocks, 1, dim3(kThreads), mutable_data<T>(*of_columns), data<T>(sum), count);
    }
    if (distances) {
      pass.launch_columns(column_sums<T>, strip, mutable_data<double>(*sums_of_columns));
    }
  });
  const std::optional<Tensor> none, weights = distances ? std::optional<Tensor>(sums) : none;
  if (a.reference) {
    pass.finish(pass.anchors, gradient, none, weights, none, grad, grad_embeddings);
    if (grad_reference) {
      pass.finish(*pass.second, *of_columns, none, none, sums_of_columns, grad, *grad_reference);
    }
  } else {
    pass.finish(pass.anchors, gradient, of_columns, weights, sums_of_columns, grad, grad_embeddings);
  }
}

// ------------------------------------------------------------------------------------------- operators

std::tuple<Tensor, Tensor> pair_loss(
    Tensor embeddings, Tensor labels, std::optional<Tensor> reference, std::optional<Tensor> reference_labels,
    int64_t self_offset, std::string kind, std::vector<double> parameters, bool normalize, bool squared,
    std::string reduction) {
  const Arguments a(
      embeddings, labels, reference, reference_labels, self_offset, kind, parameters, normalize, squared, reduction);
  const ScalarType type = accumulate_type(embeddings.scalar_type());
  const Device device(embeddings);
  if (a.empty()) {
    return {zeros(embeddings, {}, type), zeros(embeddings, {4, a.statistics()}, ScalarType::Double)};
  }
  Tensor loss = new_empty_like_type(embeddings, {}, type);
  Tensor saved = new_empty_like_type(embeddings, {4, a.statistics()}, ScalarType::Double);
  dispatch_floating(embeddings.scalar_type(), "pair_loss", [&](auto type) {
    forward<typename decltype(type)::type>(a, loss, saved);
  });
  return {loss, saved};
}

std::tuple<Tensor, Tensor> pair_loss_backward(
    Tensor grad, Tensor embeddings, Tensor labels, std::optional<Tensor> reference,
    std::optional<Tensor> reference_labels, int64_t self_offset, std::string kind, std::vector<double> parameters,
    bool normalize, bool squared, std::string reduction, Tensor saved, bool reference_gradient) {
  const Arguments a(
      embeddings, labels, reference, reference_labels, self_offset, kind, parameters, normalize, squared, reduction);
  const ScalarType type = embeddings.scalar_type();
  STD_TORCH_CHECK(
      grad.numel() == 1 && grad.scalar_type() == accumulate_type(type) && saved.is_contiguous() &&
          saved.scalar_type() == ScalarType::Double && saved.dim() == 2 && saved.size(0) == 4 &&
          saved.size(1) == a.statistics(),
      "pair_loss_backward: expected the gradient of one loss, and what its forward pass saved");
  check_device("pair_loss_backward", embeddings, {&grad, &saved});
  const Device device(embeddings);
  const int64_t depth = embeddings.size(1);
  const bool towards_reference = a.reference && reference_gradient;
  const int64_t of_reference = towards_reference ? a.columns() : 0;
  if (a.empty()) {
    return {zeros(embeddings, {a.anchors(), depth}, type), zeros(embeddings, {of_reference, depth}, type)};
  }
  Tensor grad_embeddings = new_empty_like_type(embeddings, {a.anchors(), depth}, type);
  Tensor grad_reference = new_empty_like_type(embeddings, {of_reference, depth}, type);
  dispatch_floating(type, "pair_loss_backward", [&](auto type) {
    backward<typename decltype(type)::type>(
        a, grad, saved, grad_embeddings,
        towards_reference ? std::optional<Tensor>(grad_reference) : std::optional<Tensor>());
  });
  return {grad_embeddings, grad_reference};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("pair_loss", TORCH_BOX(&robustdml::pair_loss));
  library.impl("pair_loss_backward", TORCH_BOX(&robustdml::pair_loss_backward));
}
