// Energy confusion on CUDA: the same sums as on the CPU, the number of classes known to the device alone.
#include "energy_confusion_pairs.cuh"

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <array>

namespace robustdml {
namespace {

using namespace energy;

void check_batch(const char* name, const Tensor& features, const Tensor& labels) {
  STD_TORCH_CHECK(
      features.dim() == 2 && labels.dim() == 1 && labels.size(0) == features.size(0) &&
          labels.scalar_type() == ScalarType::Long,
      name, ": expected features [N, D] and int64 labels [N]");
  check_device(name, features, {&labels});
}

// PyTorch's stable sort: equal labels keep the order of the batch.
std::tuple<Tensor, Tensor> sort_labels(const Tensor& labels) {
  using torch::stable::detail::from;
  std::array<StableIValue, 4> stack{
      from(labels), from(std::optional<bool>(true)), from(int64_t{0}), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// Rows by class, in the layout of `Groups`.
Tensor group(const Device& device, const Tensor& labels, const std::optional<Tensor>& pairs) {
  const int64_t rows = labels.size(0);
  Tensor groups = new_empty_like_type(labels, {Groups::size(rows)}, ScalarType::Long);
  const auto [sorted, order] = sort_labels(labels);
  Tensor into = torch::stable::narrow(groups, 0, Groups{rows}.order(), rows);
  torch::stable::copy_(into, order);
  launch(
      device, find_classes, 1, 1, dim3(kThreads), data<int64_t>(sorted), rows, data<int64_t>(pairs),
      pairs ? pairs->size(0) : 0, mutable_data<int64_t>(groups));
  return groups;
}

struct Moments {
  Tensor means, offsets, scatters;
};

template <typename scalar_t>
Moments moments_of(const Device& device, const Tensor& x, const Tensor& groups) {
  const int64_t rows = x.size(0), dimensions = x.size(1);
  const int64_t chunks = std::max<int64_t>(divide_up(dimensions, kColumns), 1);
  Tensor means = new_empty_like_type(x, {rows, dimensions}, ScalarType::Double);
  Tensor offsets = new_empty_like_type(x, {rows, dimensions}, accumulate_type(x.scalar_type()));
  Tensor scatters = new_empty_like_type(x, {rows}, ScalarType::Double);
  Tensor shares = new_empty_like_type(x, {rows, chunks}, ScalarType::Double);
  launch(
      device, moments<scalar_t>, rows, std::min(chunks, kMostRows), dim3(kThreads), data<scalar_t>(x), rows,
      dimensions, data<int64_t>(groups), mutable_data<double>(means),
      mutable_data<accumulate_t<scalar_t>>(offsets), mutable_data<double>(shares), chunks);
  launch(
      device, join_scatters, divide_up(rows, kThreads), 1, dim3(kThreads), data<double>(shares), chunks,
      data<int64_t>(groups), rows, mutable_data<double>(scatters));
  return {means, offsets, scatters};
}

template <typename T>
void energies(
    const Device& device, const Tensor& groups, const Moments& of, const std::optional<Tensor>& pairs,
    bool logarithmic, bool mean, const Tensor& loss, const Tensor& scales, const Tensor& shifts, bool gradient) {
  const int64_t rows = of.means.size(0), dimensions = of.means.size(1);
  const Tensor values = new_empty_like_type(of.means, {rows}, ScalarType::Double);
  const Problem<T> problem{
      data<int64_t>(groups), data<double>(of.means), data<T>(of.offsets), data<double>(of.scatters),
      mutable_data<double>(values), gradient ? mutable_data<double>(scales) : nullptr, mutable_data<T>(shifts),
      rows, dimensions, logarithmic, mean};
  const dim3 threads(kThreads);
  if (pairs) {
    launch(device, listed_pairs<T>, rows, 1, threads, problem, data<int64_t>(pairs), pairs->size(0));
  } else if (logarithmic) {
    launch(device, all_logarithms<T>, divide_up(rows, kHeight), 1, threads, problem);
  } else {
    const Tensor center = new_empty_like_type(of.means, {dimensions}, ScalarType::Double);
    launch(
        device, mean_of_means, divide_up(dimensions, kWarp), 1, threads, data<double>(of.means),
        data<int64_t>(groups), rows, dimensions, mutable_data<double>(center));
    launch(device, all_plain<T>, rows, 1, threads, problem, data<double>(center));
  }
  launch(device, add_values<T>, 1, 1, threads, problem, mutable_data<T>(loss));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> energy_confusion(
    Tensor features, Tensor labels, std::optional<Tensor> pairs, bool logarithmic, bool mean, bool gradient) {
  check_batch("energy_confusion", features, labels);
  STD_TORCH_CHECK(
      !pairs || (pairs->dim() == 2 && pairs->size(1) == 2 && pairs->scalar_type() == ScalarType::Long),
      "energy_confusion: expected int64 pairs [P, 2]");
  check_device("energy_confusion", features, pairs);
  const Device device(features);
  const Tensor x = as_contiguous(features), y = as_contiguous(labels);
  const std::optional<Tensor> listed = pairs ? std::optional<Tensor>(as_contiguous(*pairs)) : std::nullopt;
  const int64_t rows = gradient ? x.size(0) : 0;
  const ScalarType type = accumulate_type(x.scalar_type());
  Tensor loss = new_empty_like_type(x, {}, type);
  Tensor scales = new_empty_like_type(x, {rows}, ScalarType::Double);
  Tensor shifts = new_empty_like_type(x, {rows, x.size(1)}, type);
  Tensor groups = group(device, y, listed);
  dispatch_floating(x.scalar_type(), "energy_confusion", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    const Moments moments = moments_of<scalar_t>(device, x, groups);
    energies<accumulate_t<scalar_t>>(
        device, groups, moments, listed, logarithmic, mean, loss, scales, shifts, gradient);
  });
  return {loss, groups, scales, shifts};
}

Tensor energy_confusion_backward(Tensor grad, Tensor features, Tensor groups, Tensor scales, Tensor shifts) {
  const char* message = "energy_confusion_backward: expected what energy_confusion(..., gradient=True) returned";
  STD_TORCH_CHECK(features.dim() == 2 && groups.dim() == 1 && scales.dim() == 1 && shifts.dim() == 2, message);
  const int64_t rows = features.size(0), dimensions = features.size(1);
  const ScalarType type = accumulate_type(features.scalar_type());
  STD_TORCH_CHECK(
      grad.numel() == 1 && grad.scalar_type() == type && groups.scalar_type() == ScalarType::Long &&
          groups.size(0) == Groups::size(rows) && scales.scalar_type() == ScalarType::Double &&
          scales.size(0) == rows && shifts.scalar_type() == type && shifts.size(0) == rows &&
          shifts.size(1) == dimensions,
      message);
  check_device("energy_confusion_backward", features, {&grad, &groups, &scales, &shifts});
  const Device device(features);
  const Tensor x = as_contiguous(features), g = as_contiguous(groups), a = as_contiguous(scales);
  const Tensor b = as_contiguous(shifts), incoming = as_contiguous(grad);
  Tensor result = torch::stable::empty_like(x);
  dispatch_floating(x.scalar_type(), "energy_confusion_backward", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    using T = accumulate_t<scalar_t>;
    launch(
        device, energy::rows_from_classes<scalar_t>, divide_up(rows, kWarps), 1, dim3(kThreads), data<scalar_t>(x),
        rows, dimensions, data<int64_t>(g), data<double>(a), data<T>(b), data<T>(incoming),
        mutable_data<scalar_t>(result));
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> class_moments(Tensor features, Tensor labels) {
  check_batch("class_moments", features, labels);
  const Device device(features);
  const Tensor x = as_contiguous(features), y = as_contiguous(labels);
  Tensor groups = group(device, y, std::nullopt);
  Moments of{x, x, x};
  dispatch_floating(x.scalar_type(), "class_moments", [&](auto type) {
    of = moments_of<typename decltype(type)::type>(device, x, groups);
  });
  return {of.means, of.scatters, groups};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("energy_confusion", TORCH_BOX(&robustdml::energy_confusion));
  library.impl("energy_confusion_backward", TORCH_BOX(&robustdml::energy_confusion_backward));
  library.impl("class_moments", TORCH_BOX(&robustdml::class_moments));
}
