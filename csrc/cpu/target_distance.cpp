// Mean distance to T targets, value and gradient in one pass. A row of the batch and the sum of its gradients stay in
// L1 while its T targets stream past, so ten targets cost little more than one.
#include "../common/target_distance.h"
#include "../common/parallel.h"
#include "../common/tensor.h"

#include <cmath>
#include <limits>

namespace robustdml {
namespace {

using target::Norm;

// Adds the distance f → b to the return value and its gradient to `gradient`; f, b: [D].
template <Norm norm, bool squared, typename scalar_t, typename T>
T add_target(const T* f, const scalar_t* b, T* gradient, int64_t dimensions) {
  if constexpr (norm == Norm::l2 && squared) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dimensions; ++d) {
      const T difference = f[d] - T(b[d]);
      sum += difference * difference;
      gradient[d] += 2 * difference;
    }
    return static_cast<T>(sum);
  }
  T length = 0, share = 0;
  if constexpr (norm == Norm::linf) {
    T largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t d = 0; d < dimensions; ++d) {
      const T size = target::absolute(f[d] - T(b[d]));
      largest = size > largest ? size : largest;
    }
    T ties = 0, sum = 0;
#pragma omp simd reduction(+ : ties, sum)
    for (int64_t d = 0; d < dimensions; ++d) {
      const T size = target::absolute(f[d] - T(b[d]));
      ties += T(size == largest);
      sum += size; // a NaN is in no comparison, but it is in the sum
    }
    length = sum == sum ? largest : sum;
    share = ties > 0 ? 1 / ties : T(0);
  } else {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dimensions; ++d) {
      sum += target::term<norm>(f[d] - T(b[d]));
    }
    length = static_cast<T>(norm == Norm::l2 ? std::sqrt(sum) : sum);
    share = length > 0 ? 1 / length : T(0);
  }
  const T outer = squared ? 2 * length : T(1);
#pragma omp simd
  for (int64_t d = 0; d < dimensions; ++d) {
    gradient[d] += outer * target::slope<norm>(f[d] - T(b[d]), length, share);
  }
  return squared ? length * length : length;
}

template <Norm norm, bool squared, typename scalar_t, typename T>
void all_rows(
    const scalar_t* embeddings, const scalar_t* bank, const int64_t* targets, T* values, scalar_t* gradients,
    int64_t rows, int64_t count, int64_t dimensions) {
  auto run = [&](int64_t begin, int64_t end) {
    std::vector<T> buffer(2 * dimensions);
    T *f = buffer.data(), *gradient = f + dimensions;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t d = 0; d < dimensions; ++d) {
        f[d] = T(embeddings[row * dimensions + d]);
        gradient[d] = 0;
      }
      T value = 0;
      for (int64_t t = 0; t < count; ++t) {
        value += add_target<norm, squared>(f, bank + targets[row * count + t] * dimensions, gradient, dimensions);
      }
      const T share = T(1) / T(count);
      values[row] = value * share;
      for (int64_t d = 0; d < dimensions; ++d) {
        gradients[row * dimensions + d] = static_cast<scalar_t>(gradient[d] * share);
      }
    }
  };
  const int64_t least = grain(dimensions * count);
  if (rows <= least) {
    run(0, rows);
  } else {
    torch::stable::parallel_for(0, rows, least, run);
  }
}

std::tuple<Tensor, Tensor> target_distance(
    Tensor embeddings, Tensor bank, Tensor targets, double p, bool squared) {
  STD_TORCH_CHECK(
      embeddings.dim() == 2 && bank.dim() == 2 && targets.dim() == 2 && embeddings.size(1) == bank.size(1) &&
          targets.size(0) == embeddings.size(0) && targets.scalar_type() == ScalarType::Long &&
          embeddings.scalar_type() == bank.scalar_type(),
      "target_distance: expected embeddings [B, D], bank [N, D] of one dtype and int64 targets [B, T]");
  const Tensor f = as_contiguous(embeddings), b = as_contiguous(bank), index = as_contiguous(targets);
  const int64_t rows = f.size(0), dimensions = f.size(1), count = index.size(1);
  const int64_t* indices = data<int64_t>(index);
  for (int64_t i = 0; i < index.numel(); ++i) {
    STD_TORCH_CHECK(
        indices[i] >= 0 && indices[i] < b.size(0), "target_distance: target ", indices[i],
        " is no row of a bank of ", b.size(0));
  }
  Tensor values = new_empty_like_type(f, {rows}, accumulate_type(f.scalar_type()));
  Tensor gradients = torch::stable::empty_like(f);
  dispatch_floating(f.scalar_type(), "target_distance", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    dispatch_bool(squared, [&](auto is_squared) {
      auto run = [&](auto norm) {
        all_rows<norm.value, is_squared.value, scalar_t, T>(
            data<scalar_t>(f), data<scalar_t>(b), indices, mutable_data<T>(values),
            mutable_data<scalar_t>(gradients), rows, count, dimensions);
      };
      if (p == 1) {
        run(std::integral_constant<Norm, Norm::l1>{});
      } else if (p == 2) {
        run(std::integral_constant<Norm, Norm::l2>{});
      } else {
        run(std::integral_constant<Norm, Norm::linf>{});
      }
    });
  });
  return {values, gradients};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("target_distance", TORCH_BOX(&robustdml::target_distance));
}
