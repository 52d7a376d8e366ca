// Projected gradient step: one read of each input, one write. Bound by memory, so everything else is about traffic:
// blocks are computed in L1 and written around the cache where the result is large; the three looks at a sample that
// l2 needs follow one another while it is in cache.
#include "../common/pgd_step.h"
#include "../common/pgd_step_operators.h"
#include "../common/parallel.h"
#include "../common/tensor.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace robustdml {
namespace {

constexpr int64_t kBlock = 2048;

template <typename scalar_t>
struct Step {
  using T = accumulate_t<scalar_t>;
  const scalar_t* x;
  const scalar_t* gradient;
  const scalar_t* clean;
  scalar_t* result;
  int64_t samples, pixels; // pixels: elements of a sample
  const T* epsilons;       // one a sample, or null
  const T* steps;
  double epsilon, step, minimum, maximum;
  bool streamed;

  T epsilon_of(int64_t sample) const {
    return epsilons ? epsilons[sample] : static_cast<T>(epsilon);
  }
  T step_of(int64_t sample) const {
    return steps ? steps[sample] : static_cast<T>(step);
  }

  // Writes pixel(i) for i in [begin, end).
  template <typename Pixel>
  void write(int64_t begin, int64_t end, const Pixel& pixel) const {
    if (!streamed) {
      scalar_t* out = result;
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        out[i] = static_cast<scalar_t>(pixel(i));
      }
      return;
    }
    alignas(64) scalar_t block[kBlock];
    for (int64_t start = begin; start < end; start += kBlock) {
      const int64_t count = std::min(kBlock, end - start);
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        block[i] = static_cast<scalar_t>(pixel(start + i));
      }
      stream_copy(result + start, block, count * sizeof(scalar_t));
    }
  }

  void linf_range(int64_t begin, int64_t end, T radius, T length) const {
    const scalar_t *x_ = x, *g_ = gradient, *c_ = clean;
    const T low = static_cast<T>(minimum), high = static_cast<T>(maximum);
    write(begin, end, [=](int64_t i) {
      return pgd::linf<T>(T(x_[i]), T(g_[i]), T(c_[i]), length, radius, low, high);
    });
  }

  void linf() const {
    const int64_t total = samples * pixels;
    const int64_t blocks = (total + kElementsPerThread - 1) / kElementsPerThread;
    parallel_tasks(blocks, kElementsPerThread, [&](int64_t b) {
      int64_t begin = b * kElementsPerThread;
      const int64_t end = std::min(begin + kElementsPerThread, total);
      if (!epsilons && !steps) {
        linf_range(begin, end, static_cast<T>(epsilon), static_cast<T>(step));
      }
      while ((epsilons || steps) && begin < end) {
        const int64_t sample = begin / pixels;
        const int64_t stop = std::min(end, (sample + 1) * pixels);
        linf_range(begin, stop, epsilon_of(sample), step_of(sample));
        begin = stop;
      }
    });
  }

  // Sum of square(i)² over a sample, in float64: the squares of small gradients vanish in float32.
  template <typename Value>
  static double norm(int64_t begin, int64_t end, const Value& value) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const double v = static_cast<double>(value(i));
      sum += v * v;
    }
    return std::sqrt(sum);
  }

  void l2() const {
    parallel_tasks(samples, 3 * pixels, [&](int64_t sample) {
      const scalar_t *x_ = x, *g_ = gradient, *c_ = clean;
      const int64_t begin = sample * pixels, end = begin + pixels;
      const double length = norm(begin, end, [=](int64_t i) { return T(g_[i]); });
      const T scale = static_cast<T>(pgd::l2_scale(length, step_of(sample)));
      const T low = static_cast<T>(minimum), high = static_cast<T>(maximum);
      // Outside of the loops: a choice inside them takes as long as the rest.
      dispatch_bool(scale != T(0), [&](auto moves) {
        auto offset = [=](int64_t i) {
          return pgd::l2_offset<T>(T(x_[i]), moves.value ? T(g_[i]) : T(0), T(c_[i]), scale);
        };
        const T shrink = static_cast<T>(pgd::l2_shrink(norm(begin, end, offset), epsilon_of(sample)));
        write(begin, end, [=](int64_t i) { return pgd::clamp(T(c_[i]) + shrink * offset(i), low, high); });
      });
    });
  }
};

void step_into(
    const Tensor& result, const Tensor& adversarial, const Tensor& gradient, const Tensor& clean,
    const std::optional<Tensor>& epsilon, const std::optional<Tensor>& step_size, double uniform_epsilon,
    double uniform_step_size, const std::string& norm, double minimum, double maximum) {
  STD_TORCH_CHECK(
      same_shape(adversarial, gradient) && same_shape(adversarial, clean),
      "pgd_step: adversarial, gradient and clean must have one shape");
  STD_TORCH_CHECK(
      adversarial.scalar_type() == gradient.scalar_type() && adversarial.scalar_type() == clean.scalar_type(),
      "pgd_step: adversarial, gradient and clean must have one dtype");
  if (adversarial.numel() == 0) {
    return;
  }
  const int64_t samples = adversarial.size(0);
  const Tensor g = in_layout_of(adversarial, gradient), c = in_layout_of(adversarial, clean);
  const ScalarType per_sample = accumulate_type(adversarial.scalar_type());
  for (const auto& values : {epsilon, step_size}) {
    STD_TORCH_CHECK(
        !values || (values->numel() == samples && values->is_contiguous() && values->scalar_type() == per_sample),
        "pgd_step: one contiguous value a sample expected, in the type that sums are kept in");
  }
  dispatch_floating(adversarial.scalar_type(), "pgd_step", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    Step<scalar_t> step{
        data<scalar_t>(adversarial), data<scalar_t>(g), data<scalar_t>(c), mutable_data<scalar_t>(result),
        samples, adversarial.numel() / samples, data<T>(epsilon), data<T>(step_size),
        uniform_epsilon, uniform_step_size, minimum, maximum, false};
    // In place, the lines that are written are in cache already.
    step.streamed = step.result != step.x &&
        adversarial.numel() * static_cast<int64_t>(sizeof(scalar_t)) >= kStreamedBytes;
    norm == "linf" ? step.linf() : step.l2();
  });
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("pgd_step", TORCH_BOX(&robustdml::pgd_step<&robustdml::step_into>));
  library.impl("pgd_step_", TORCH_BOX(&robustdml::pgd_step_<&robustdml::step_into>));
}
