// Projected gradient step on CUDA. Bound by memory: l∞ reads each input once and writes once. l2 needs sums over a
// sample first; a sample that fits in the registers of one block is read once too, a larger one twice, the second time
// backwards, so that what the first pass read last is still in the second-level cache.
#include "../common/cuda.h"
#include "../common/pgd_step.h"
#include "../common/pgd_step_operators.h"

#include <string>

namespace robustdml {
namespace {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kMostThreads = 1024;
constexpr int64_t kMostChunks = 128; // pieces of a sample that are summed on their own

// Vectors of each input that a thread keeps: 36 of the 64 registers that a thread of a large block has; fewer for half
// precision, whose values the compiler keeps in float32 as well.
template <typename scalar_t>
constexpr int kKept = sizeof(scalar_t) >= 4 ? 3 : 2;

template <typename scalar_t>
struct Step {
  using T = accumulate_t<scalar_t>;
  // In place, `result` is `x`: none of these may be __restrict__.
  const scalar_t* x;
  const scalar_t* gradient;
  const scalar_t* clean;
  scalar_t* result;
  int64_t samples, pixels; // pixels: elements of a sample
  const T* epsilons;       // one a sample, or null
  const T* steps;
  double epsilon, step;
  T minimum, maximum;

  __device__ T epsilon_of(int64_t sample) const {
    return epsilons ? epsilons[sample] : static_cast<T>(epsilon);
  }
  __device__ T step_of(int64_t sample) const {
    return steps ? steps[sample] : static_cast<T>(step);
  }
  __device__ pgd::L2 l2_of(int64_t sample, const double (&sums)[3]) const {
    return pgd::l2_of_sums(sums[0], sums[1], sums[2], step_of(sample), epsilon_of(sample));
  }
};

// ------------------------------------------------------------------------------------------------- l∞

template <typename scalar_t, int count>
__device__ __forceinline__ void linf_vector(
    const Step<scalar_t>& s, int64_t at, accumulate_t<scalar_t> epsilon, accumulate_t<scalar_t> step) {
  Vector<scalar_t, count> x = load<count>(s.x + at);
  const Vector<scalar_t, count> g = load<count>(s.gradient + at), c = load<count>(s.clean + at);
#pragma unroll
  for (int j = 0; j < count; ++j) {
    x.set(j, pgd::linf(x[j], g[j], c[j], step, epsilon, s.minimum, s.maximum));
  }
  store(s.result + at, x);
}

// A row of blocks takes every gridDim.y-th sample. With one radius for all, the whole batch is one sample.
template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) linf_kernel(const Step<scalar_t> s) {
  const int64_t vectors = s.pixels / count, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t sample = blockIdx.y; sample < s.samples; sample += gridDim.y) {
    const auto epsilon = s.epsilon_of(sample), step = s.step_of(sample);
    const int64_t begin = sample * s.pixels;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < vectors; i += stride) {
      linf_vector<scalar_t, count>(s, begin + i * count, epsilon, step);
    }
    const int64_t rest = vectors * count + threadIdx.x; // fewer than one vector are left
    if (blockIdx.x == 0 && rest < s.pixels) {
      linf_vector<scalar_t, 1>(s, begin + rest, epsilon, step);
    }
  }
}

template <typename scalar_t>
void linf(const Device& device, Step<scalar_t> s, bool is_aligned) {
  if (!s.epsilons && !s.steps) {
    s.pixels *= s.samples;
    s.samples = 1;
  }
  const bool vectors = is_aligned && (s.samples == 1 || s.pixels % kVector<scalar_t> == 0);
  dispatch_vector<scalar_t>(vectors, [&](auto count) {
    const int64_t rows = std::min(s.samples, kMostRows);
    const int64_t needed = divide_up(s.pixels, count * kThreads);
    // Enough blocks to fill the device a few times over, whatever the shape.
    const int64_t most = std::max<int64_t>(1, divide_up(device.multiprocessors() * 32, rows));
    launch(device, linf_kernel<scalar_t, count>, std::min(needed, most), rows, dim3(kThreads), s);
  });
}

// ------------------------------------------------------------------------------------------------- l2

template <typename scalar_t, int count>
__device__ __forceinline__ void add_to_sums(
    double (&sums)[3], const Vector<scalar_t, count>& x, const Vector<scalar_t, count>& g,
    const Vector<scalar_t, count>& c) {
#pragma unroll
  for (int j = 0; j < count; ++j) {
    // Squares in float64: those of small gradients vanish in float32.
    const double gradient = g[j], offset = x[j] - c[j];
    sums[0] += gradient * gradient;
    sums[1] += offset * offset;
    sums[2] += offset * gradient;
  }
}

template <typename scalar_t, int count>
__device__ __forceinline__ void l2_write(
    const Step<scalar_t>& s, int64_t at, pgd::L2 l2, Vector<scalar_t, count> x, const Vector<scalar_t, count>& g,
    const Vector<scalar_t, count>& c) {
  using T = accumulate_t<scalar_t>;
  const T scale = static_cast<T>(l2.scale), shrink = static_cast<T>(l2.shrink);
#pragma unroll
  for (int j = 0; j < count; ++j) {
    // A gradient without a direction moves nothing, were it NaN.
    const T gradient = l2.scale == 0.0 ? T(0) : g[j];
    x.set(j, pgd::clamp(c[j] + shrink * pgd::l2_offset(x[j], gradient, c[j], scale), s.minimum, s.maximum));
  }
  store(s.result + at, x);
}

// One block a sample, which stays in registers between the sums and the step.
template <typename scalar_t>
__global__ void __launch_bounds__(kMostThreads) l2_in_registers(const Step<scalar_t> s) {
  constexpr int count = kVector<scalar_t>, kept = kKept<scalar_t>;
  __shared__ pgd::L2 shared;
  const int64_t sample = blockIdx.x, begin = sample * s.pixels;
  Vector<scalar_t, count> x[kept], g[kept], c[kept];
  double sums[3] = {0, 0, 0};
#pragma unroll
  for (int v = 0; v < kept; ++v) {
    const int64_t i = static_cast<int64_t>(v * blockDim.x + threadIdx.x) * count;
    if (i < s.pixels) {
      x[v] = load<count>(s.x + begin + i);
      g[v] = load<count>(s.gradient + begin + i);
      c[v] = load<count>(s.clean + begin + i);
    }
  }
#pragma unroll
  for (int v = 0; v < kept; ++v) {
    if (static_cast<int64_t>(v * blockDim.x + threadIdx.x) * count < s.pixels) {
      add_to_sums(sums, x[v], g[v], c[v]);
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0) {
    shared = s.l2_of(sample, sums);
  }
  __syncthreads();
  const pgd::L2 l2 = shared;
#pragma unroll
  for (int v = 0; v < kept; ++v) {
    const int64_t i = static_cast<int64_t>(v * blockDim.x + threadIdx.x) * count;
    if (i < s.pixels) {
      l2_write(s, begin + i, l2, x[v], g[v], c[v]);
    }
  }
}

// Larger samples in `chunks` pieces of `length` elements.
struct Chunks {
  int64_t chunks, length;
};

// partial [samples, chunks, 3]: the three sums of every piece.
template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) l2_sums(const Step<scalar_t> s, const Chunks cut, double* partial) {
  const int64_t sample = blockIdx.x / cut.chunks, chunk = blockIdx.x % cut.chunks;
  const int64_t begin = sample * s.pixels, end = min((chunk + 1) * cut.length, s.pixels);
  double sums[3] = {0, 0, 0};
#pragma unroll 4
  for (int64_t i = chunk * cut.length + threadIdx.x * count; i < end; i += kThreads * count) {
    add_to_sums(
        sums, load<count>(s.x + begin + i), load<count>(s.gradient + begin + i), load<count>(s.clean + begin + i));
  }
  block_sum(sums);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 3; ++i) {
      partial[static_cast<int64_t>(blockIdx.x) * 3 + i] = sums[i];
    }
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads)
    l2_step(const Step<scalar_t> s, const Chunks cut, const double* __restrict__ partial) {
  __shared__ pgd::L2 shared;
  const int64_t block = static_cast<int64_t>(gridDim.x) - 1 - blockIdx.x; // backwards, see above
  const int64_t sample = block / cut.chunks, chunk = block % cut.chunks;
  if (threadIdx.x < kWarp) {
    double sums[3] = {0, 0, 0};
    for (int64_t p = threadIdx.x; p < cut.chunks; p += kWarp) {
      for (int i = 0; i < 3; ++i) {
        sums[i] += partial[(sample * cut.chunks + p) * 3 + i];
      }
    }
    for (int i = 0; i < 3; ++i) {
      sums[i] = warp_sum(sums[i]);
    }
    if (threadIdx.x == 0) {
      shared = s.l2_of(sample, sums);
    }
  }
  __syncthreads();
  const pgd::L2 l2 = shared;
  const int64_t begin = sample * s.pixels, end = min((chunk + 1) * cut.length, s.pixels);
  for (int64_t i = chunk * cut.length + threadIdx.x * count; i < end; i += kThreads * count) {
    l2_write(
        s, begin + i, l2, load<count>(s.x + begin + i), load<count>(s.gradient + begin + i),
        load<count>(s.clean + begin + i));
  }
}

template <typename scalar_t>
void l2(const Device& device, const Step<scalar_t>& s, bool is_aligned, const Tensor& model) {
  const bool vectors = is_aligned && s.pixels % kVector<scalar_t> == 0;
  const int64_t per_thread = kKept<scalar_t> * kVector<scalar_t>;
  if (vectors && s.pixels <= kMostThreads * per_thread) {
    const int64_t threads = divide_up(divide_up(s.pixels, per_thread), kWarp) * kWarp;
    launch(device, l2_in_registers<scalar_t>, s.samples, 1, dim3(static_cast<unsigned>(threads)), s);
    return;
  }
  dispatch_vector<scalar_t>(vectors, [&](auto count) {
    const int64_t round = count * kThreads; // elements that a block takes at once
    const int64_t rounds = std::max<int64_t>(4, divide_up(divide_up(s.pixels, round), kMostChunks));
    const Chunks cut{divide_up(s.pixels, rounds * round), rounds * round};
    Tensor partial = new_empty_like_type(model, {s.samples, cut.chunks, 3}, ScalarType::Double);
    const int64_t blocks = s.samples * cut.chunks;
    launch(device, l2_sums<scalar_t, count>, blocks, 1, dim3(kThreads), s, cut, mutable_data<double>(partial));
    launch(device, l2_step<scalar_t, count>, blocks, 1, dim3(kThreads), s, cut, data<double>(partial));
  });
}

// ------------------------------------------------------------------------------------------- operators

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
  check_device("pgd_step", result, {&adversarial, &gradient, &clean});
  if (adversarial.numel() == 0) {
    return;
  }
  const Device device(adversarial);
  const int64_t samples = adversarial.size(0);
  const Tensor g = in_layout_of(adversarial, gradient), c = in_layout_of(adversarial, clean);
  const ScalarType per_sample = accumulate_type(adversarial.scalar_type());
  for (const auto& values : {epsilon, step_size}) {
    check_device("pgd_step", result, values);
    STD_TORCH_CHECK(
        !values || (values->numel() == samples && values->is_contiguous() && values->scalar_type() == per_sample),
        "pgd_step: one contiguous value a sample expected, in the type that sums are kept in");
  }
  dispatch_floating(adversarial.scalar_type(), "pgd_step", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Step<scalar_t> step{
        data<scalar_t>(adversarial), data<scalar_t>(g), data<scalar_t>(c), mutable_data<scalar_t>(result),
        samples, adversarial.numel() / samples, data<T>(epsilon), data<T>(step_size),
        uniform_epsilon, uniform_step_size, static_cast<T>(minimum), static_cast<T>(maximum)};
    const bool is_aligned = aligned(step.x, step.gradient, step.clean, step.result);
    if (norm == "linf") {
      linf(device, step, is_aligned);
    } else {
      l2(device, step, is_aligned, adversarial);
    }
  });
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("pgd_step", TORCH_BOX(&robustdml::pgd_step<&robustdml::step_into>));
  library.impl("pgd_step_", TORCH_BOX(&robustdml::pgd_step_<&robustdml::step_into>));
}
