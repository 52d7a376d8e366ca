// Batch normalization over K distributions: the operators and their registration. The loops are in
// distribution_norm.h, and what runs where in distribution_norm_pass.h.
#include "distribution_norm_pass.h"

namespace robustdml {
namespace {

using namespace norm;

Tensor statistics_tensor(const Tensor& input, const std::vector<int64_t>& segments) {
  return new_empty_like_type(
      input, {static_cast<int64_t>(segments.size()), input.size(1)}, accumulate_type(input.scalar_type()));
}

// Normalizes by `mean` and `variance`; of_batch: by the batch's own, which are written there first.
Tensor normalize_into(
    const Tensor& input, const std::optional<Tensor>& residual, const Tensor& weight, const Tensor& bias,
    const Tensor& mean, const Tensor& variance, const std::vector<int64_t>& segments, double eps, bool relu,
    bool of_batch) {
  check_arguments(input, segments);
  for (const Tensor& parameter : {weight, bias, mean, variance}) {
    check_parameter(parameter, input, segments);
  }
  const Tensor x = flat(input), w = as_contiguous(weight), b = as_contiguous(bias);
  std::optional<Tensor> r;
  if (residual) {
    check_like(*residual, input);
    r = in_layout_of(x, *residual);
  }
  Tensor output = torch::stable::empty_like(x);
  dispatch_floating(x.scalar_type(), "distribution_norm", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Pass<scalar_t> pass(x, segments);
    dispatch_bool(r.has_value(), [&](auto has_residual) {
      dispatch_bool(relu, [&](auto has_relu) {
        pass.template forward<has_residual.value, has_relu.value>(
            data<scalar_t>(x), data<scalar_t>(r), mutable_data<scalar_t>(output), data<T>(w), data<T>(b),
            mutable_data<T>(mean), mutable_data<T>(variance), eps, of_batch);
      });
    });
  });
  return unflat(input, output);
}

std::tuple<Tensor, Tensor, Tensor> distribution_norm(
    Tensor input, std::optional<Tensor> residual, Tensor weight, Tensor bias, std::vector<int64_t> segments,
    double eps, bool relu) {
  check_arguments(input, segments);
  Tensor mean = statistics_tensor(input, segments), variance = statistics_tensor(input, segments);
  Tensor output = normalize_into(input, residual, weight, bias, mean, variance, segments, eps, relu, true);
  return {output, mean, variance};
}

Tensor distribution_norm_apply(
    Tensor input, std::optional<Tensor> residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance,
    std::vector<int64_t> segments, double eps, bool relu) {
  return normalize_into(
      input, residual, weight, bias, as_contiguous(mean), as_contiguous(variance), segments, eps, relu, false);
}

std::tuple<Tensor, Tensor> distribution_norm_statistics(Tensor input, std::vector<int64_t> segments) {
  check_arguments(input, segments);
  const Tensor x = flat(input);
  Tensor mean = statistics_tensor(x, segments), variance = statistics_tensor(x, segments);
  dispatch_floating(x.scalar_type(), "distribution_norm_statistics", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    Pass<scalar_t>(x, segments).statistics(data<scalar_t>(x), mutable_data<T>(mean), mutable_data<T>(variance));
  });
  return {mean, variance};
}

Tensor new_sums(const Tensor& input, const std::vector<int64_t>& segments) {
  return new_empty_like_type(
      input, {2, static_cast<int64_t>(segments.size()), input.size(1)}, accumulate_type(input.scalar_type()));
}

Tensor distribution_norm_sums(
    Tensor grad_output, Tensor input, std::optional<Tensor> output, Tensor mean, Tensor variance,
    std::vector<int64_t> segments, double eps) {
  check_arguments(input, segments);
  check_like(grad_output, input);
  check_parameter(mean, input, segments);
  check_parameter(variance, input, segments);
  const Tensor x = flat(input), dy = in_layout_of(x, grad_output);
  const Tensor mu = as_contiguous(mean), sigma2 = as_contiguous(variance);
  std::optional<Tensor> y;
  if (output) {
    check_like(*output, input);
    y = in_layout_of(x, *output);
  }
  Tensor sums = new_sums(x, segments);
  dispatch_floating(x.scalar_type(), "distribution_norm_sums", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Pass<scalar_t> pass(x, segments);
    dispatch_bool(y.has_value(), [&](auto has_relu) {
      pass.template sums<has_relu.value>(
          data<scalar_t>(dy), data<scalar_t>(x), data<scalar_t>(y), data<T>(mu), data<T>(sigma2), eps,
          mutable_data<T>(sums));
    });
  });
  return sums;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> distribution_norm_backward(
    Tensor grad_output, Tensor input, std::optional<Tensor> output, Tensor weight, Tensor mean, Tensor variance,
    std::optional<Tensor> sums, std::vector<int64_t> counts, std::vector<int64_t> segments, double eps,
    bool parameters, bool residual) {
  check_arguments(input, segments);
  check_like(grad_output, input);
  for (const Tensor& parameter : {weight, mean, variance}) {
    check_parameter(parameter, input, segments);
  }
  STD_TORCH_CHECK(
      counts.empty() || counts.size() == segments.size(), "distribution_norm_backward: one count a segment");
  const Tensor x = flat(input), dy = in_layout_of(x, grad_output), w = as_contiguous(weight);
  const Tensor mu = as_contiguous(mean), sigma2 = as_contiguous(variance);
  std::optional<Tensor> y;
  if (output) {
    check_like(*output, input);
    y = in_layout_of(x, *output);
  }
  const bool through = !counts.empty(), find_sums = !sums && (through || parameters);
  const std::vector<int64_t> parameter_shape{static_cast<int64_t>(segments.size()), x.size(1)};
  const ScalarType statistics_type = accumulate_type(x.scalar_type());
  STD_TORCH_CHECK(
      !sums || (sums->dim() == 3 && sums->size(0) == 2 && sums->size(1) == parameter_shape[0] &&
                sums->size(2) == parameter_shape[1] && sums->scalar_type() == statistics_type),
      "distribution_norm_backward: sums must be [2, K, C]");
  Tensor totals = sums ? as_contiguous(*sums) : new_sums(x, segments);
  Tensor dx = torch::stable::empty_like(x);
  Tensor dresidual = residual ? torch::stable::empty_like(x) : new_empty_like_type(x, {0}, x.scalar_type());
  dispatch_floating(x.scalar_type(), "distribution_norm_backward", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Pass<scalar_t> pass(x, segments);
    dispatch_bool(y.has_value(), [&](auto has_relu) {
      dispatch_bool(through, [&](auto is_through) {
        pass.template backward<has_relu.value, is_through.value>(
            data<scalar_t>(dy), data<scalar_t>(x), data<scalar_t>(y), mutable_data<scalar_t>(dx),
            residual ? mutable_data<scalar_t>(dresidual) : nullptr, data<T>(w), data<T>(mu), data<T>(sigma2),
            mutable_data<T>(totals), find_sums, counts.data(), eps);
      });
    });
  });
  const Tensor added = residual ? unflat(input, dresidual) : dresidual;
  const Tensor grad_input = unflat(input, dx);
  if (!parameters) {
    auto none = [&] { return new_empty_like_type(x, {0}, statistics_type); };
    return {grad_input, added, none(), none()};
  }
  // Σ dy·x̂ is the gradient of γ, Σ dy that of β.
  auto sum = [&](int64_t which) { return torch::stable::clone(torch::stable::select(totals, 0, which)); };
  return {grad_input, added, sum(1), sum(0)};
}

void distribution_norm_update_(
    Tensor running_mean, Tensor running_var, Tensor mean, Tensor variance, std::vector<int64_t> counts,
    double momentum) {
  const int64_t channels = running_mean.size(1);
  for (const Tensor& value : {running_mean, running_var, mean, variance}) {
    STD_TORCH_CHECK(
        value.is_contiguous() && same_shape(value, running_mean) &&
            value.size(0) == static_cast<int64_t>(counts.size()) &&
            value.scalar_type() == running_mean.scalar_type(),
        "distribution_norm_update_: expected contiguous statistics [K, C] of one dtype");
  }
  dispatch_floating(running_mean.scalar_type(), "distribution_norm_update_", [&](auto type) {
    using T = typename decltype(type)::type;
    T *to_mean = mutable_data<T>(running_mean), *to_variance = mutable_data<T>(running_var);
    const T *from_mean = data<T>(mean), *from_variance = data<T>(variance);
    for (size_t k = 0; k < counts.size(); ++k) {
      if (counts[k] <= 0) {
        continue;
      }
      const double unbiased = double(counts[k]) / double(std::max<int64_t>(counts[k] - 1, 1));
      for (int64_t i = k * channels; i < static_cast<int64_t>(k + 1) * channels; ++i) {
        to_mean[i] = static_cast<T>((1 - momentum) * double(to_mean[i]) + momentum * double(from_mean[i]));
        to_variance[i] = static_cast<T>(
            (1 - momentum) * double(to_variance[i]) + momentum * unbiased * double(from_variance[i]));
      }
    }
  });
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("distribution_norm", TORCH_BOX(&robustdml::distribution_norm));
  library.impl("distribution_norm_apply", TORCH_BOX(&robustdml::distribution_norm_apply));
  library.impl("distribution_norm_statistics", TORCH_BOX(&robustdml::distribution_norm_statistics));
  library.impl("distribution_norm_sums", TORCH_BOX(&robustdml::distribution_norm_sums));
  library.impl("distribution_norm_backward", TORCH_BOX(&robustdml::distribution_norm_backward));
  library.impl("distribution_norm_update_", TORCH_BOX(&robustdml::distribution_norm_update_));
}
