// Losses of pairs and triplets on the CPU, without a tensor of all pairs: similarities are made in tiles that stay in
// cache, once for both triangles where a set is compared with itself, and made again in the backward pass.
#include "pair_gradient.h"
#include "pair_log_sums.h"
#include "pair_multi_similarity.h"
#include "pair_singles.h"
#include "pair_triplets.h"

namespace robustdml {
namespace {

using namespace pairs;

struct Call {
  Tensor embeddings, labels;
  std::optional<Tensor> reference, reference_labels;
  int64_t self_offset;
  bool normalize;
  Job job;
};

Call make_call(
    const Tensor& embeddings, const Tensor& labels, const std::optional<Tensor>& reference,
    const std::optional<Tensor>& reference_labels, int64_t self_offset, const std::string& kind,
    const std::vector<double>& parameters, bool normalize, bool squared, const std::string& reduction) {
  auto set = [](const Tensor& rows, const Tensor& of_rows) {
    return rows.dim() == 2 && of_rows.dim() == 1 && of_rows.size(0) == rows.size(0) &&
        of_rows.scalar_type() == ScalarType::Long;
  };
  STD_TORCH_CHECK(set(embeddings, labels), "pair_loss: expected embeddings [B, D] and int64 labels [B]");
  STD_TORCH_CHECK(
      reference.has_value() == reference_labels.has_value() &&
          (!reference ||
           (set(*reference, *reference_labels) && reference->size(1) == embeddings.size(1) &&
            reference->scalar_type() == embeddings.scalar_type())),
      "pair_loss: expected reference [M, D] and int64 reference_labels [M], of the embeddings' dtype, or neither");
  STD_TORCH_CHECK(
      !reference || self_offset < 0 || self_offset <= reference->size(0) - embeddings.size(0),
      "pair_loss: self_offset leads past the reference");
  const int64_t needed = kind == "contrastive" || kind == "binomial" ? 3
      : kind == "multi_similarity"                                   ? 4
      : kind == "lifted"                                             ? 2
      : kind == "npair"                                              ? 0
                                                                     : 1;
  STD_TORCH_CHECK(
      static_cast<int64_t>(parameters.size()) == needed, "pair_loss: ", kind, " has ", needed, " parameters");
  STD_TORCH_CHECK(
      reduction == "sum" || reduction == "mean" || reduction == "nonzero", "pair_loss: no reduction ", reduction);
  Call call{
      as_contiguous(embeddings), as_contiguous(labels), std::nullopt, std::nullopt, self_offset, normalize, Job{}};
  if (reference) {
    call.reference = as_contiguous(*reference);
    call.reference_labels = as_contiguous(*reference_labels);
  }
  call.job.kind = kind;
  call.job.parameters = parameters;
  call.job.squared = squared;
  call.job.reduction = reduction == "sum" ? Reduction::sum
      : reduction == "mean"               ? Reduction::mean
                                          : Reduction::nonzero;
  return call;
}

template <typename T>
Sets<T> sets_of(const Call& call) {
  return make_sets<T>(
      call.embeddings, call.labels, call.reference ? &*call.reference : nullptr,
      call.reference ? &*call.reference_labels : nullptr, call.self_offset, call.normalize);
}

// Calls body(loss) for the smooth losses, or triplets() for the others.
template <typename T, typename Smooth, typename Triplet>
void dispatch_loss(const Job& job, const Smooth& smooth, const Triplet& triplets) {
  constexpr Measure distance = Measure::distance, squared = Measure::squared_distance;
  if (job.kind == "multi_similarity") {
    smooth(MultiSimilarity<T>(job));
  } else if (job.kind == "contrastive") {
    dispatch_bool(job.parameters[2] == 2, [&](auto twice) {
      constexpr int power = decltype(twice)::value ? 2 : 1;
      if (job.squared) {
        smooth(OfPairs<T, Contrastive<T, squared, power>>(job));
      } else {
        smooth(OfPairs<T, Contrastive<T, distance, power>>(job));
      }
    });
  } else if (job.kind == "binomial") {
    smooth(OfPairs<T, Binomial<T>>(job));
  } else if (job.kind == "npair") {
    smooth(NPair<T>(job));
  } else if (job.kind == "lifted") {
    smooth(Lifted<T>(job));
  } else {
    STD_TORCH_CHECK(
        job.kind == "triplet_all" || job.kind == "triplet_semihard" || job.kind == "triplet_hardest",
        "pair_loss: no kind ", job.kind);
    triplets();
  }
}

template <typename Body>
void dispatch_compute(ScalarType type, const Body& body) {
  dispatch_floating(type, "pair_loss", [&](auto scalar) {
    using scalar_t = typename decltype(scalar)::type;
    if constexpr (std::is_same_v<scalar_t, double> || std::is_same_v<scalar_t, float>) {
      body(Type<scalar_t>{});
    }
  });
}

std::tuple<Tensor, Tensor> pair_loss(
    Tensor embeddings, Tensor labels, std::optional<Tensor> reference, std::optional<Tensor> reference_labels,
    int64_t self_offset, std::string kind, std::vector<double> parameters, bool normalize, bool squared,
    std::string reduction) {
  Call call = make_call(
      embeddings, labels, reference, reference_labels, self_offset, kind, parameters, normalize, squared, reduction);
  const int64_t width = embeddings.size(0) + (reference ? reference->size(0) : 0) + 1;
  const ScalarType compute = accumulate_type(embeddings.scalar_type());
  Tensor loss = new_empty_like_type(embeddings, {}, compute);
  Tensor saved = new_empty_like_type(embeddings, {4, width}, ScalarType::Double);
  call.job.saved = mutable_data<double>(saved);
  call.job.width = width;
  std::fill_n(call.job.saved, 4 * width, 0.0);
  dispatch_compute(compute, [&](auto type) {
    using T = typename decltype(type)::type;
    const Sets<T> sets = sets_of<T>(call);
    double value = 0;
    dispatch_loss<T>(
        call.job, [&](auto smooth) { value = smooth.forward(sets, call.job); },
        [&] { value = triplet_forward(sets, call.job); });
    *mutable_data<T>(loss) = static_cast<T>(value);
  });
  return {loss, saved};
}

std::tuple<Tensor, Tensor> pair_loss_backward(
    Tensor grad, Tensor embeddings, Tensor labels, std::optional<Tensor> reference,
    std::optional<Tensor> reference_labels, int64_t self_offset, std::string kind, std::vector<double> parameters,
    bool normalize, bool squared, std::string reduction, Tensor saved, bool reference_gradient) {
  Call call = make_call(
      embeddings, labels, reference, reference_labels, self_offset, kind, parameters, normalize, squared, reduction);
  const int64_t width = embeddings.size(0) + (reference ? reference->size(0) : 0) + 1;
  const ScalarType compute = accumulate_type(embeddings.scalar_type());
  STD_TORCH_CHECK(
      saved.dim() == 2 && saved.size(0) == 4 && saved.size(1) == width && saved.scalar_type() == ScalarType::Double &&
          saved.is_contiguous() && grad.numel() == 1 && grad.scalar_type() == compute,
      "pair_loss_backward: expected the forward pass's own statistics and a gradient of the loss's type");
  const bool second = reference && reference_gradient;
  Tensor grad_embeddings = new_empty_like_type(
      embeddings, {embeddings.size(0), embeddings.size(1)}, embeddings.scalar_type());
  Tensor grad_reference = new_empty_like_type(
      embeddings, {second ? reference->size(0) : 0, embeddings.size(1)}, embeddings.scalar_type());
  call.job.saved = const_cast<double*>(data<double>(saved)); // only read from here on
  call.job.width = width;
  dispatch_compute(compute, [&](auto type) {
    using T = typename decltype(type)::type;
    const Sets<T> sets = sets_of<T>(call);
    const double scale = static_cast<double>(*data<T>(grad));
    const Tensor* to_reference = second ? &grad_reference : nullptr;
    dispatch_loss<T>(
        call.job,
        [&](auto smooth) {
          smooth_backward(sets, smooth, call.job, scale, normalize, grad_embeddings, to_reference);
        },
        [&] { triplet_backward(sets, call.job, scale, normalize, grad_embeddings, to_reference); });
  });
  return {grad_embeddings, grad_reference};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("pair_loss", TORCH_BOX(&robustdml::pair_loss));
  library.impl("pair_loss_backward", TORCH_BOX(&robustdml::pair_loss_backward));
}
