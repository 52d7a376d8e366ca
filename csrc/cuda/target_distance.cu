// Mean distance to T targets on CUDA, value and gradient in one pass: one warp a row. Its embedding and the sum of its
// gradients stay in registers while the T targets stream past, the next one on its way while one is worked on.
#include "../common/cuda.h"
#include "../common/target_distance.h"

// A target that is no row of the bank must not be read, in release builds neither: "device-side assert triggered".
#undef NDEBUG
#include <cassert>

namespace robustdml {
namespace {

using namespace cuda;
using target::Norm;

constexpr int kMostWarps = 4; // rows of a block

template <typename scalar_t>
struct Problem {
  using T = accumulate_t<scalar_t>;
  const scalar_t* __restrict__ embeddings; // [B, D]
  const scalar_t* __restrict__ bank;       // [N, D]
  const int64_t* __restrict__ targets;     // [B, T]
  T* __restrict__ values;                  // [B]
  scalar_t* __restrict__ gradients;        // [B, D]
  int64_t rows, dimensions, count, bank_rows;
  Norm norm;
  bool squared;
};

// Hands a warp the targets of its row in order. Lane i reads and checks every 32nd index, so indices are read ahead.
template <typename scalar_t>
struct Targets {
  const Problem<scalar_t>& problem;
  const int64_t* indices;
  int64_t mine = 0;

  __device__ Targets(const Problem<scalar_t>& problem, int64_t row)
      : problem(problem), indices(problem.targets + row * problem.count) {}

  // All lanes call it, with t = 0, 1, 2, …
  __device__ const scalar_t* row(int64_t t) {
    if (t % kWarp == 0) {
      const int64_t of_lane = t + threadIdx.x;
      mine = of_lane < problem.count ? indices[of_lane] : 0;
      assert(of_lane >= problem.count || (mine >= 0 && mine < problem.bank_rows));
    }
    const int64_t index = __shfl_sync(kAllLanes, mine, static_cast<int>(t % kWarp));
    return problem.bank + index * problem.dimensions;
  }
};

// What the gradient of one distance needs to know beside the difference.
template <typename T>
struct Length {
  T length, share;
};

// `each` calls its argument with every difference of this lane.
template <Norm norm, typename T, typename Each>
__device__ __forceinline__ Length<T> length_of(const Each& each) {
  T sum = 0;
  if constexpr (norm == Norm::linf) {
    T largest = 0;
    each([&](T difference) {
      const T size = target::absolute(difference);
      largest = size > largest ? size : largest;
      sum += size; // a NaN is in no comparison, but it is in the sum
    });
    largest = warp_max(largest);
    sum = warp_sum(sum);
    T ties = 0;
    each([&](T difference) { ties += T(target::absolute(difference) == largest); });
    ties = warp_sum(ties);
    return {sum == sum ? largest : sum, ties > T(0) ? T(1) / ties : T(0)};
  } else {
    each([&](T difference) { sum += target::term<norm>(difference); });
    sum = warp_sum(sum);
    const T length = norm == Norm::l2 ? sqrt(sum) : sum;
    return {length, length > T(0) ? T(1) / length : T(0)};
  }
}

// Adds the distance to one target to `value` (the same in all lanes). `each(body)` calls body(difference);
// `add(slope)` adds slope(difference) to the gradient of every difference.
template <Norm norm, typename T, typename Each, typename Add>
__device__ __forceinline__ void add_target(bool squared, T& value, const Each& each, const Add& add) {
  const Length<T> of = length_of<norm, T>(each);
  const T outer = squared ? 2 * of.length : T(1);
  add([&](T difference) { return outer * target::slope<norm>(difference, of.length, of.share); });
  value += squared ? of.length * of.length : of.length;
}

// The branches are the same for all warps, so they cost next to nothing, and six kernels are one.
template <typename T, typename Each, typename Add>
__device__ __forceinline__ void add_target(
    Norm norm, bool squared, T& value, T& of_lane, const Each& each, const Add& add) {
  if (norm == Norm::l2 && squared) {
    // No need to know the length: the lanes meet once a row.
    each([&](T difference) { of_lane += difference * difference; });
    add([](T difference) { return 2 * difference; });
  } else if (norm == Norm::l1) {
    add_target<Norm::l1>(squared, value, each, add);
  } else if (norm == Norm::l2) {
    add_target<Norm::l2>(squared, value, each, add);
  } else {
    add_target<Norm::linf>(squared, value, each, add);
  }
}

// D <= 32·vectors·kVector, a multiple of kVector; every row aligned to 16 bytes. Block: (32, rows).
template <typename scalar_t, int vectors>
__global__ void __launch_bounds__(kWarp * kMostWarps) distances_in_registers(const Problem<scalar_t> p) {
  using T = accumulate_t<scalar_t>;
  constexpr int count = kVector<scalar_t>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) {
    return; // a whole warp: a row of the block is one
  }
  // Lanes past D hold zeros: they add nothing to sums, and have no slope.
  auto read = [&](const scalar_t* from, Vector<scalar_t, count>(&into)[vectors]) {
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int d = (v * kWarp + threadIdx.x) * count;
      if (d < p.dimensions) {
        into[v] = load<count>(from + d);
      } else {
#pragma unroll
        for (int j = 0; j < count; ++j) {
          into[v].set(j, T(0));
        }
      }
    }
  };
  Vector<scalar_t, count> f[vectors], next[vectors];
  T gradient[vectors][count] = {};
  Targets<scalar_t> targets(p, row);
  read(p.embeddings + row * p.dimensions, f);
  if (p.count > 0) {
    read(targets.row(0), next);
  }
  T value = 0, of_lane = 0;
  for (int64_t t = 0; t < p.count; ++t) {
    Vector<scalar_t, count> b[vectors];
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      b[v] = next[v];
    }
    if (t + 1 < p.count) {
      read(targets.row(t + 1), next);
    }
    auto each = [&](auto body) {
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
#pragma unroll
        for (int j = 0; j < count; ++j) {
          body(f[v][j] - b[v][j]);
        }
      }
    };
    auto add = [&](auto slope) {
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
#pragma unroll
        for (int j = 0; j < count; ++j) {
          gradient[v][j] += slope(f[v][j] - b[v][j]);
        }
      }
    };
    add_target(p.norm, p.squared, value, of_lane, each, add);
  }
  const T share = T(1) / static_cast<T>(p.count);
  value = (value + warp_sum(of_lane)) * share;
  if (threadIdx.x == 0) {
    p.values[row] = value;
  }
#pragma unroll
  for (int v = 0; v < vectors; ++v) {
    const int d = (v * kWarp + threadIdx.x) * count;
    if (d < p.dimensions) {
      Vector<scalar_t, count> out;
#pragma unroll
      for (int j = 0; j < count; ++j) {
        out.set(j, gradient[v][j] * share);
      }
      store(p.gradients + row * p.dimensions + d, out);
    }
  }
}

// Any D and alignment: the sum of gradients is kept in memory, `sums` [B, D], each element by one lane alone.
template <typename scalar_t>
__global__ void __launch_bounds__(kWarp * kMostWarps)
    distances_in_memory(const Problem<scalar_t> p, accumulate_t<scalar_t>* sums) {
  using T = accumulate_t<scalar_t>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) {
    return; // a whole warp: a row of the block is one
  }
  const scalar_t* f = p.embeddings + row * p.dimensions;
  T* gradient = sums + row * p.dimensions;
  for (int64_t d = threadIdx.x; d < p.dimensions; d += kWarp) {
    gradient[d] = T(0);
  }
  Targets<scalar_t> targets(p, row);
  T value = 0, of_lane = 0;
  for (int64_t t = 0; t < p.count; ++t) {
    const scalar_t* b = targets.row(t);
    auto each = [&](auto body) {
      for (int64_t d = threadIdx.x; d < p.dimensions; d += kWarp) {
        body(static_cast<T>(f[d]) - static_cast<T>(b[d]));
      }
    };
    auto add = [&](auto slope) {
      for (int64_t d = threadIdx.x; d < p.dimensions; d += kWarp) {
        gradient[d] += slope(static_cast<T>(f[d]) - static_cast<T>(b[d]));
      }
    };
    add_target(p.norm, p.squared, value, of_lane, each, add);
  }
  const T share = T(1) / static_cast<T>(p.count);
  value = (value + warp_sum(of_lane)) * share;
  if (threadIdx.x == 0) {
    p.values[row] = value;
  }
  for (int64_t d = threadIdx.x; d < p.dimensions; d += kWarp) {
    p.gradients[row * p.dimensions + d] = static_cast<scalar_t>(gradient[d] * share);
  }
}

template <typename scalar_t>
void run(const Device& device, const Problem<scalar_t>& p, const Tensor& model) {
  // Few rows go to as many multiprocessors as there are.
  const int warps = p.rows <= 1024 ? 1 : kMostWarps;
  const int64_t blocks = divide_up(p.rows, warps);
  const dim3 threads(kWarp, warps);
  constexpr int64_t width = kWarp * kVector<scalar_t>; // values of a vector a lane
  const bool vectors = aligned(p.embeddings, p.bank, p.gradients) && p.dimensions % kVector<scalar_t> == 0;
  if (!vectors || p.dimensions > std::min<int64_t>(8 * width, 1024)) {
    using T = accumulate_t<scalar_t>;
    Tensor sums = new_empty_like_type(model, {p.rows, p.dimensions}, accumulate_type(model.scalar_type()));
    launch(device, distances_in_memory<scalar_t>, blocks, 1, threads, p, mutable_data<T>(sums));
  } else if (p.dimensions <= width) {
    launch(device, distances_in_registers<scalar_t, 1>, blocks, 1, threads, p);
  } else if (p.dimensions <= 2 * width) {
    launch(device, distances_in_registers<scalar_t, 2>, blocks, 1, threads, p);
  } else if (p.dimensions <= 4 * width) {
    launch(device, distances_in_registers<scalar_t, 4>, blocks, 1, threads, p);
  } else if constexpr (4 * width < 1024) {
    launch(device, distances_in_registers<scalar_t, 8>, blocks, 1, threads, p);
  }
}

std::tuple<Tensor, Tensor> target_distance(
    Tensor embeddings, Tensor bank, Tensor targets, double norm, bool squared) {
  STD_TORCH_CHECK(
      embeddings.dim() == 2 && bank.dim() == 2 && targets.dim() == 2 && embeddings.size(1) == bank.size(1) &&
          targets.size(0) == embeddings.size(0) && targets.scalar_type() == ScalarType::Long &&
          embeddings.scalar_type() == bank.scalar_type(),
      "target_distance: expected embeddings [B, D], bank [N, D] of one dtype and int64 targets [B, T]");
  check_device("target_distance", embeddings, {&embeddings, &bank, &targets});
  const Device device(embeddings);
  const Tensor f = as_contiguous(embeddings), b = as_contiguous(bank), index = as_contiguous(targets);
  Tensor values = new_empty_like_type(f, {f.size(0)}, accumulate_type(f.scalar_type()));
  Tensor gradients = torch::stable::empty_like(f);
  dispatch_floating(f.scalar_type(), "target_distance", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    using T = accumulate_t<scalar_t>;
    const Problem<scalar_t> problem{
        data<scalar_t>(f), data<scalar_t>(b), data<int64_t>(index), mutable_data<T>(values),
        mutable_data<scalar_t>(gradients), f.size(0), f.size(1), index.size(1), b.size(0),
        norm == 1 ? Norm::l1 : norm == 2 ? Norm::l2 : Norm::linf, squared};
    run(device, problem, f);
  });
  return {values, gradients};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("target_distance", TORCH_BOX(&robustdml::target_distance));
}
