// Batch normalization over K distributions on CUDA: the operators and their registration.
#include "distribution_norm_pass.cuh"

namespace robustdml {
namespace {

using namespace norm;

constexpr const char* kName = "distribution_norm";

Tensor parameter_tensor(const Tensor& input, const std::vector<int64_t>& segments) {
  return new_empty_like_type(
      input, {static_cast<int64_t>(segments.size()), input.size(1)}, accumulate_type(input.scalar_type()));
}

void check_parameters(
    const Tensor& input, const std::vector<int64_t>& segments, std::initializer_list<const Tensor*> parameters) {
  for (const Tensor* parameter : parameters) {
    check_parameter(*parameter, input, segments);
  }
  check_device(kName, input, parameters);
}

// A tensor of the input's shape, in the memory order of `x`.
Tensor like_input(const Tensor& value, const Tensor& x) {
  check_like(value, x);
  check_device(kName, x, {&value});
  return in_layout_of(x, value);
}

std::optional<Tensor> like_input(const std::optional<Tensor>& value, const Tensor& x) {
  return value ? std::optional<Tensor>(like_input(*value, x)) : std::nullopt;
}

// Normalizes by `mean` and `variance`; of_batch: by the batch's own, which are written there first.
Tensor normalize_into(
    const Tensor& input, const std::optional<Tensor>& residual, const Tensor& weight, const Tensor& bias,
    const Tensor& mean, const Tensor& variance, const std::vector<int64_t>& segments, double eps, bool relu,
    bool of_batch) {
  check_parameters(input, segments, {&weight, &bias, &mean, &variance});
  const Device device(input);
  const Tensor x = flat(input), w = as_contiguous(weight), b = as_contiguous(bias);
  const std::optional<Tensor> r = like_input(residual, x);
  Tensor output = torch::stable::empty_like(x);
  dispatch_floating(x.scalar_type(), kName, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Pass<scalar_t> pass(device, x, segments, eps);
    if (of_batch) {
      pass.statistics(data<scalar_t>(x), mutable_data<T>(mean), mutable_data<T>(variance));
    }
    pass.normalize(
        {data<scalar_t>(x), data<scalar_t>(r), mutable_data<scalar_t>(output), data<T>(w), data<T>(b),
         data<T>(mean), data<T>(variance), static_cast<T>(eps), relu});
  });
  return unflat(input, output);
}

std::tuple<Tensor, Tensor, Tensor> distribution_norm(
    Tensor input, std::optional<Tensor> residual, Tensor weight, Tensor bias, std::vector<int64_t> segments,
    double eps, bool relu) {
  check_arguments(input, segments);
  Tensor mean = parameter_tensor(input, segments), variance = parameter_tensor(input, segments);
  Tensor output = normalize_into(input, residual, weight, bias, mean, variance, segments, eps, relu, true);
  return {output, mean, variance};
}

Tensor distribution_norm_apply(
    Tensor input, std::optional<Tensor> residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance,
    std::vector<int64_t> segments, double eps, bool relu) {
  check_arguments(input, segments);
  return normalize_into(
      input, residual, weight, bias, as_contiguous(mean), as_contiguous(variance), segments, eps, relu, false);
}

std::tuple<Tensor, Tensor> distribution_norm_statistics(Tensor input, std::vector<int64_t> segments) {
  check_arguments(input, segments);
  check_device(kName, input, {&input});
  const Device device(input);
  const Tensor x = flat(input);
  Tensor mean = parameter_tensor(x, segments), variance = parameter_tensor(x, segments);
  dispatch_floating(x.scalar_type(), kName, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    Pass<scalar_t>(device, x, segments, 0.0)
        .statistics(data<scalar_t>(x), mutable_data<T>(mean), mutable_data<T>(variance));
  });
  return {mean, variance};
}

Tensor distribution_norm_sums(
    Tensor grad_output, Tensor input, std::optional<Tensor> output, Tensor mean, Tensor variance,
    std::vector<int64_t> segments, double eps) {
  check_arguments(input, segments);
  check_parameters(input, segments, {&mean, &variance});
  const Device device(input);
  const Tensor x = flat(input), dy = like_input(grad_output, x);
  const Tensor mu = as_contiguous(mean), sigma2 = as_contiguous(variance);
  const std::optional<Tensor> y = like_input(output, x);
  const int64_t distributions = static_cast<int64_t>(segments.size());
  Tensor sums = new_empty_like_type(x, {2, distributions, x.size(1)}, accumulate_type(x.scalar_type()));
  dispatch_floating(x.scalar_type(), kName, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    T* to = mutable_data<T>(sums);
    Pass<scalar_t>(device, x, segments, eps)
        .sums(
            {data<scalar_t>(dy), data<scalar_t>(x), data<scalar_t>(y), data<T>(mu)}, data<T>(sigma2), to,
            to + distributions * x.size(1));
  });
  return sums;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> distribution_norm_backward(
    Tensor grad_output, Tensor input, std::optional<Tensor> output, Tensor weight, Tensor mean, Tensor variance,
    std::optional<Tensor> sums, std::vector<int64_t> counts, std::vector<int64_t> segments, double eps,
    bool parameters, bool residual) {
  check_arguments(input, segments);
  check_parameters(input, segments, {&weight, &mean, &variance});
  STD_TORCH_CHECK(
      counts.empty() || counts.size() == segments.size(), "distribution_norm_backward: one count a segment");
  const int64_t distributions = static_cast<int64_t>(segments.size()), channels = input.size(1);
  const ScalarType statistics_type = accumulate_type(input.scalar_type());
  STD_TORCH_CHECK(
      !sums || (sums->dim() == 3 && sums->size(0) == 2 && sums->size(1) == distributions &&
                sums->size(2) == channels && sums->scalar_type() == statistics_type),
      "distribution_norm_backward: sums must be [2, K, C]");
  check_device(kName, input, sums);
  const Device device(input);
  const Tensor x = flat(input), dy = like_input(grad_output, x), w = as_contiguous(weight);
  const Tensor mu = as_contiguous(mean), sigma2 = as_contiguous(variance);
  const std::optional<Tensor> y = like_input(output, x);
  const bool through = !counts.empty(), find_sums = !sums && (through || parameters);
  Tensor dx = torch::stable::empty_like(x);
  Tensor dresidual = residual ? torch::stable::empty_like(x) : new_empty_like_type(x, {0}, x.scalar_type());
  auto new_sum = [&] {
    return find_sums ? parameter_tensor(x, segments) : new_empty_like_type(x, {0}, statistics_type);
  };
  // Found here, they are results of their own at once: Σ dy is the gradient of β, Σ dy·x̂ that of γ.
  Tensor sum_dy = new_sum(), sum_dy_xhat = new_sum();
  if (sums) {
    const Tensor given = as_contiguous(*sums);
    sum_dy = torch::stable::select(given, 0, 0);
    sum_dy_xhat = torch::stable::select(given, 0, 1);
  }
  dispatch_floating(x.scalar_type(), kName, [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Pass<scalar_t> pass(device, x, segments, eps);
    if (find_sums) {
      pass.sums(
          {data<scalar_t>(dy), data<scalar_t>(x), data<scalar_t>(y), data<T>(mu)}, data<T>(sigma2),
          mutable_data<T>(sum_dy), mutable_data<T>(sum_dy_xhat));
    }
    pass.backward(
        {data<scalar_t>(dy), through ? data<scalar_t>(x) : nullptr, data<scalar_t>(y), mutable_data<scalar_t>(dx),
         residual ? mutable_data<scalar_t>(dresidual) : nullptr, data<T>(w), data<T>(mu), data<T>(sigma2),
         through ? data<T>(sum_dy) : nullptr, through ? data<T>(sum_dy_xhat) : nullptr, static_cast<T>(eps)},
        counts);
  });
  const Tensor grad_input = unflat(input, dx), added = residual ? unflat(input, dresidual) : dresidual;
  if (!parameters) {
    auto none = [&] { return new_empty_like_type(x, {0}, statistics_type); };
    return {grad_input, added, none(), none()};
  }
  if (sums) {
    return {grad_input, added, torch::stable::clone(sum_dy_xhat), torch::stable::clone(sum_dy)};
  }
  return {grad_input, added, sum_dy_xhat, sum_dy};
}

template <typename T>
void update(
    const Device& device, const Tensor& running_mean, const Tensor& running_var, const Tensor& mean,
    const Tensor& variance, const std::vector<int64_t>& counts, double momentum) {
  const int64_t channels = running_mean.size(1), distributions = static_cast<int64_t>(counts.size());
  for (int64_t first = 0; first < distributions; first += kSegments) {
    const int64_t at = first * channels, segments = std::min<int64_t>(kSegments, distributions - first);
    Running<T> running{
        mutable_data<T>(running_mean) + at, mutable_data<T>(running_var) + at, data<T>(mean) + at,
        data<T>(variance) + at, momentum, channels, {}};
    for (int64_t s = 0; s < segments; ++s) {
      const double n = static_cast<double>(counts[first + s]);
      running.unbiased[s] = n > 0 ? n / std::max(n - 1, 1.0) : 0.0;
    }
    launch(device, update_kernel<T>, divide_up(channels, kThreads), segments, dim3(kThreads), running);
  }
}

void distribution_norm_update_(
    Tensor running_mean, Tensor running_var, Tensor mean, Tensor variance, std::vector<int64_t> counts,
    double momentum) {
  const ScalarType type = running_mean.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Float || type == ScalarType::Double,
      "distribution_norm_update_: expected float32 or float64 statistics");
  for (const Tensor& value : {running_mean, running_var, mean, variance}) {
    STD_TORCH_CHECK(
        value.dim() == 2 && value.is_contiguous() && same_shape(value, running_mean) &&
            value.size(0) == static_cast<int64_t>(counts.size()) && value.scalar_type() == type,
        "distribution_norm_update_: expected contiguous statistics [K, C] of one dtype");
  }
  check_device(kName, running_mean, {&running_mean, &running_var, &mean, &variance});
  const Device device(running_mean);
  if (type == ScalarType::Float) {
    update<float>(device, running_mean, running_var, mean, variance, counts, momentum);
  } else {
    update<double>(device, running_mean, running_var, mean, variance, counts, momentum);
  }
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("distribution_norm", TORCH_BOX(&robustdml::distribution_norm));
  library.impl("distribution_norm_apply", TORCH_BOX(&robustdml::distribution_norm_apply));
  library.impl("distribution_norm_statistics", TORCH_BOX(&robustdml::distribution_norm_statistics));
  library.impl("distribution_norm_sums", TORCH_BOX(&robustdml::distribution_norm_sums));
  library.impl("distribution_norm_backward", TORCH_BOX(&robustdml::distribution_norm_backward));
  library.impl("distribution_norm_update_", TORCH_BOX(&robustdml::distribution_norm_update_));
}
