// The two operators of the step, out of place and in place, on top of a device's own pass over flat tensors.
#pragma once

#include "tensor.h"

#include <string>

namespace robustdml {

// Writes the step to `result`, a flat tensor with the strides of the first one behind it, which it may be itself.
using StepInto = void (*)(
    const Tensor& result, const Tensor& adversarial, const Tensor& gradient, const Tensor& clean,
    const std::optional<Tensor>& epsilon, const std::optional<Tensor>& step_size, double uniform_epsilon,
    double uniform_step_size, const std::string& norm, double minimum, double maximum);

template <StepInto step_into>
Tensor pgd_step(
    Tensor adversarial, Tensor gradient, Tensor clean, std::optional<Tensor> epsilon,
    std::optional<Tensor> step_size, double uniform_epsilon, double uniform_step_size, std::string norm,
    double minimum, double maximum) {
  const Tensor x = is_flat(adversarial) ? adversarial : as_contiguous(adversarial);
  Tensor result = torch::stable::empty_like(x);
  step_into(
      result, x, gradient, clean, epsilon, step_size, uniform_epsilon, uniform_step_size, norm, minimum, maximum);
  return is_flat(adversarial) ? result : in_layout_of(torch::stable::empty_like(adversarial), result);
}

template <StepInto step_into>
void pgd_step_(
    Tensor adversarial, Tensor gradient, Tensor clean, std::optional<Tensor> epsilon,
    std::optional<Tensor> step_size, double uniform_epsilon, double uniform_step_size, std::string norm,
    double minimum, double maximum) {
  if (is_flat(adversarial)) {
    step_into(
        adversarial, adversarial, gradient, clean, epsilon, step_size, uniform_epsilon, uniform_step_size, norm,
        minimum, maximum);
    return;
  }
  Tensor result = pgd_step<step_into>(
      adversarial, gradient, clean, epsilon, step_size, uniform_epsilon, uniform_step_size, norm, minimum,
      maximum);
  torch::stable::copy_(adversarial, result);
}

} // namespace robustdml
