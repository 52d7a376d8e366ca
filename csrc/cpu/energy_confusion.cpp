// Energy confusion: class means and scatters in one read of the batch, all class pairs from them, and the gradient
// in one more read and one write.
#include "energy_confusion_pairs.h"

namespace robustdml {
namespace {

using namespace energy;

void check_batch(const char* name, const Tensor& features, const Tensor& labels) {
  STD_TORCH_CHECK(
      features.dim() == 2 && labels.dim() == 1 && labels.size(0) == features.size(0) &&
          labels.scalar_type() == ScalarType::Long,
      name, ": expected features [N, D] and int64 labels [N]");
}

Tensor empty_groups(const Tensor& labels) {
  return new_empty_like_type(labels, {Groups::size(labels.size(0))}, ScalarType::Long);
}

// Which ordered pairs are summed: checks those that are listed, and counts them.
int64_t count_pairs(const std::optional<Tensor>& pairs, int64_t classes) {
  if (!pairs) {
    return classes > 0 ? classes * (classes - 1) : 0;
  }
  const int64_t* index = data<int64_t>(pairs);
  int64_t count = 0;
  for (int64_t p = 0; p < pairs->size(0); ++p) {
    for (const int64_t k : {index[2 * p], index[2 * p + 1]}) {
      STD_TORCH_CHECK(
          k >= 0 && k < classes, "energy_confusion: pairs: class ", k, " is none of the batch's ", classes);
    }
    count += index[2 * p] != index[2 * p + 1];
  }
  return count;
}

// The mean of the class means, [stride].
Buffer<double> center_of(const Moments& moments, int64_t classes) {
  Buffer<double> center(moments.stride);
  center.fill(0);
  for (int64_t k = 0; k < classes; ++k) {
    const double* mean = moments.means.get() + k * moments.stride;
#pragma omp simd
    for (int64_t d = 0; d < moments.stride; ++d) {
      center[d] += mean[d];
    }
  }
  for (int64_t d = 0; d < moments.stride; ++d) {
    center[d] /= static_cast<double>(classes);
  }
  return center;
}

// With `unit` the weight of a pair in the loss: ∂loss/∂x_i = unit·(2/N_I)·(s_I·(x_i − μ_I) + t_I) as a number and
// a vector for each class, relative to its first row.
template <typename scalar_t>
void class_gradients(
    const scalar_t* x, int64_t dimensions, const Classes& classes, const Moments& moments, const Pulls& pulls,
    double unit, double* scales, accumulate_t<scalar_t>* shifts) {
  using T = accumulate_t<scalar_t>;
  parallel_tasks(classes.count, dimensions, [&](int64_t k) {
    const double share = 2 * unit / static_cast<double>(classes.size(k));
    const double slope = pulls.slopes[k];
    const double* mean = moments.means.get() + k * moments.stride;
    const double* pull = pulls.means.get() + k * moments.stride;
    const scalar_t* first = x + classes.first(k) * dimensions;
    scales[k] = share * slope;
#pragma omp simd
    for (int64_t d = 0; d < dimensions; ++d) {
      const double offset =
          mean[d] - (static_cast<double>(static_cast<T>(first[d])) - static_cast<double>(static_cast<T>(x[d])));
      shifts[k * dimensions + d] = static_cast<T>(share * (pull[d] - slope * offset));
    }
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> energy_confusion(
    Tensor features, Tensor labels, std::optional<Tensor> pairs, bool logarithmic, bool mean, bool gradient) {
  check_batch("energy_confusion", features, labels);
  STD_TORCH_CHECK(
      !pairs || (pairs->dim() == 2 && pairs->size(1) == 2 && pairs->scalar_type() == ScalarType::Long),
      "energy_confusion: expected int64 pairs [P, 2]");
  const Tensor x = as_contiguous(features), y = as_contiguous(labels);
  const std::optional<Tensor> listed = pairs ? std::optional<Tensor>(as_contiguous(*pairs)) : std::nullopt;
  const int64_t rows = x.size(0), dimensions = x.size(1);
  const ScalarType type = accumulate_type(x.scalar_type());
  Tensor loss = new_empty_like_type(x, {}, type), groups = empty_groups(y);
  Tensor scales = new_empty_like_type(x, {gradient ? rows : 0}, ScalarType::Double);
  Tensor shifts = new_empty_like_type(x, {gradient ? rows : 0, dimensions}, type);
  group_rows(data<int64_t>(y), rows, mutable_data<int64_t>(groups));
  const Classes classes(data<int64_t>(groups), rows);
  const int64_t count = count_pairs(listed, classes.count);
  mutable_data<int64_t>(groups)[Groups{rows}.pairs()] = count;
  dispatch_floating(x.scalar_type(), "energy_confusion", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    using T = accumulate_t<scalar_t>;
    Moments moments(classes, dimensions);
    Pulls pulls(moments, classes.count, gradient);
    if (count > 0) {
      moments.compute(data<scalar_t>(x));
      if (listed) {
        add_listed(moments, data<int64_t>(listed), listed->size(0), logarithmic, gradient, pulls);
      } else if (logarithmic) {
        add_all_logarithms(moments, classes.count, gradient, pulls);
      } else {
        add_all_plain(moments, classes.count, center_of(moments, classes.count).get(), gradient, pulls);
      }
    }
    const double unit = mean && count > 0 ? 1.0 / static_cast<double>(count) : 1.0;
    *mutable_data<T>(loss) = static_cast<T>(unit * pulls.value);
    if (gradient && count > 0) {
      class_gradients(
          data<scalar_t>(x), dimensions, classes, moments, pulls, unit, mutable_data<double>(scales),
          mutable_data<T>(shifts));
    }
  });
  return {loss, groups, scales, shifts};
}

Tensor energy_confusion_backward(Tensor grad, Tensor features, Tensor groups, Tensor scales, Tensor shifts) {
  const char* message = "energy_confusion_backward: expected what energy_confusion(..., gradient=True) returned";
  STD_TORCH_CHECK(features.dim() == 2 && groups.dim() == 1 && scales.dim() == 1, message);
  const int64_t rows = features.size(0), dimensions = features.size(1);
  const ScalarType type = accumulate_type(features.scalar_type());
  STD_TORCH_CHECK(
      grad.numel() == 1 && grad.scalar_type() == type && groups.scalar_type() == ScalarType::Long &&
          groups.size(0) == Groups::size(rows) && scales.scalar_type() == ScalarType::Double &&
          scales.size(0) == rows && shifts.scalar_type() == type && shifts.dim() == 2 && shifts.size(0) == rows &&
          shifts.size(1) == dimensions,
      message);
  const Tensor x = as_contiguous(features), g = as_contiguous(groups), a = as_contiguous(scales);
  const Tensor b = as_contiguous(shifts);
  Tensor result = torch::stable::empty_like(x);
  const Classes classes(data<int64_t>(g), rows);
  bool valid = classes.count >= 0 && classes.count <= rows && classes.begins[0] == 0;
  for (int64_t k = 0; valid && k < classes.count; ++k) {
    valid = classes.begins[k + 1] > classes.begins[k];
  }
  valid = valid && classes.begins[std::max<int64_t>(classes.count, 0)] == rows;
  int64_t lowest = 0, highest = -1;
  for (int64_t i = 0; i < rows; ++i) {
    lowest = std::min(lowest, classes.order[i]);
    highest = std::max(highest, classes.order[i]);
  }
  valid = valid && lowest >= 0 && highest < rows;
  STD_TORCH_CHECK(valid, message);
  if (data<int64_t>(g)[Groups{rows}.pairs()] == 0) {
    return torch::stable::zero_(result);
  }
  dispatch_floating(x.scalar_type(), "energy_confusion_backward", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    using T = accumulate_t<scalar_t>;
    rows_from_classes(
        data<scalar_t>(x), classes, dimensions, data<double>(a), data<T>(b),
        static_cast<double>(*data<T>(as_contiguous(grad))), mutable_data<scalar_t>(result));
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> class_moments(Tensor features, Tensor labels) {
  check_batch("class_moments", features, labels);
  const Tensor x = as_contiguous(features), y = as_contiguous(labels);
  const int64_t rows = x.size(0), dimensions = x.size(1);
  Tensor means = new_empty_like_type(x, {rows, dimensions}, ScalarType::Double);
  Tensor scatters = new_empty_like_type(x, {rows}, ScalarType::Double), groups = empty_groups(y);
  group_rows(data<int64_t>(y), rows, mutable_data<int64_t>(groups));
  const Classes classes(data<int64_t>(groups), rows);
  mutable_data<int64_t>(groups)[Groups{rows}.pairs()] = count_pairs(std::nullopt, classes.count);
  Moments moments(classes, dimensions);
  dispatch_floating(x.scalar_type(), "class_moments", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    moments.compute(data<scalar_t>(x));
  });
  for (int64_t k = 0; k < classes.count; ++k) {
    const double* mean = moments.means.get() + k * moments.stride;
    std::copy_n(mean, dimensions, mutable_data<double>(means) + k * dimensions);
    mutable_data<double>(scatters)[k] = moments.scatters[k];
  }
  return {means, scatters, groups};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("energy_confusion", TORCH_BOX(&robustdml::energy_confusion));
  library.impl("energy_confusion_backward", TORCH_BOX(&robustdml::energy_confusion_backward));
  library.impl("class_moments", TORCH_BOX(&robustdml::class_moments));
}
