// Elementwise kernels of `distribution_norm`: a thread goes down one vector of columns of the table (see
// distribution_norm_view.cuh), whose parameters it works out once. They run backwards over the tensor: what the
// reduction before read last is still in the second-level cache.
#pragma once

#include "distribution_norm_view.cuh"

namespace robustdml::norm {

// The rows [first, last) and the columns of a thread. Block: (piece, tile), the tile fastest, backwards.
template <int count>
struct Strip {
  Piece piece;
  int64_t column, first;
  bool active;

  __device__ Strip(const Table& table, const Partition& parts) {
    const int64_t block = static_cast<int64_t>(gridDim.x) - 1 - blockIdx.x;
    piece = parts[block / table.tiles];
    column = block % table.tiles * table.tile + threadIdx.x * count;
    active = column < table.columns;
    first = piece.first + threadIdx.y;
  }

  // parameter(j, place in [K, C]) for each of the columns, once for all of them where they share a channel.
  template <typename Parameter>
  __device__ void each_column(const Table& table, const Partition& parts, const Parameter& parameter) const {
    int64_t at = column / table.width;
    int64_t left = table.width - (column - at * table.width); // columns of this channel from here on
    at += (parts.first_segment + piece.segment) * table.channels;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      parameter(j, at);
      if (--left == 0) {
        left = table.width;
        ++at;
      }
    }
  }
};

template <typename scalar_t>
struct Normalize {
  using T = accumulate_t<scalar_t>;
  const scalar_t* __restrict__ x;
  const scalar_t* __restrict__ residual; // or null
  scalar_t* __restrict__ y;
  const T* __restrict__ weight; // all [K, C]
  const T* __restrict__ bias;
  const T* __restrict__ mean;
  const T* __restrict__ variance;
  T eps;
  bool relu;
};

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads)
    normalize_kernel(const Normalize<scalar_t> of, const Table table, const Partition parts) {
  using T = accumulate_t<scalar_t>;
  const Strip<count> strip(table, parts);
  if (!strip.active) {
    return;
  }
  T mean[count], scale[count], bias[count];
  strip.each_column(table, parts, [&](int j, int64_t at) {
    mean[j] = of.mean[at];
    scale[j] = of.weight[at] / sqrt(of.variance[at] + of.eps);
    bias[j] = of.bias[at];
  });
#pragma unroll 4
  for (int64_t row = strip.first; row < strip.piece.last; row += blockDim.y) {
    const int64_t at = row * table.columns + strip.column;
    const Vector<scalar_t, count> x = load<count>(of.x + at);
    Vector<scalar_t, count> y{};
    if (of.residual) {
      y = load<count>(of.residual + at);
    }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      T value = normalize(x[j], mean[j], scale[j], bias[j]);
      if (of.residual) {
        value += y[j];
      }
      y.set(j, of.relu ? relu(value) : value);
    }
    store(of.y + at, y);
  }
}

// How many values stand behind the statistics of each segment; 0 where they are constants.
struct Counts {
  double of[kSegments];
};

template <typename scalar_t>
struct Flow {
  using T = accumulate_t<scalar_t>;
  const scalar_t* __restrict__ dy;
  const scalar_t* __restrict__ x; // null where all statistics are constants
  const scalar_t* __restrict__ y; // the forward's output where it had a ReLU, or null
  scalar_t* __restrict__ dx;
  scalar_t* __restrict__ dresidual; // or null
  const T* __restrict__ weight;     // all [K, C]
  const T* __restrict__ mean;
  const T* __restrict__ variance;
  const T* __restrict__ sum_dy; // null where all statistics are constants
  const T* __restrict__ sum_dy_xhat;
  T eps;
};

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(
        const Flow<scalar_t> of, const __grid_constant__ Counts counts, const Table table, const Partition parts) {
  using T = accumulate_t<scalar_t>;
  const Strip<count> strip(table, parts);
  if (!strip.active) {
    return;
  }
  const T number = static_cast<T>(counts.of[strip.piece.segment]);
  Backward<T> columns[count];
  strip.each_column(table, parts, [&](int j, int64_t at) {
    const T inverse = T(1) / sqrt(of.variance[at] + of.eps);
    columns[j] = backward_of(
        of.weight[at], of.mean[at], inverse, of.x ? of.sum_dy[at] : T(0), of.x ? of.sum_dy_xhat[at] : T(0), number);
  });
#pragma unroll 2
  for (int64_t row = strip.first; row < strip.piece.last; row += blockDim.y) {
    const int64_t at = row * table.columns + strip.column;
    const Vector<scalar_t, count> dy = load<count>(of.dy + at);
    Vector<scalar_t, count> x{}, y{}, dx, dresidual;
    if (of.x) {
      x = load<count>(of.x + at);
    }
    if (of.y) {
      y = load<count>(of.y + at);
    }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const Backward<T>& b = columns[j];
      const T gradient = of.y ? relu_gradient(dy[j], y[j]) : dy[j], flow = gradient * b.scale;
      dx.set(j, of.x ? flow - b.offset - (x[j] - b.mean) * b.slope : flow);
      dresidual.set(j, gradient);
    }
    store(of.dx + at, dx);
    if (of.dresidual) {
      store(of.dresidual + at, dresidual);
    }
  }
}

// Running statistics of up to kSegments segments, [segments, C]. Factor 0: an empty segment, which keeps its own.
template <typename T>
struct Running {
  T* running_mean;
  T* running_var;
  const T* mean;
  const T* variance;
  double momentum;
  int64_t channels;
  double unbiased[kSegments]; // n / (n − 1)
};

// Block: (channels, segment).
template <typename T>
__global__ void __launch_bounds__(kThreads) update_kernel(const Running<T> of) {
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const double unbiased = of.unbiased[blockIdx.y];
  if (channel >= of.channels || unbiased == 0.0) {
    return;
  }
  const int64_t i = blockIdx.y * of.channels + channel;
  const double keep = 1.0 - of.momentum;
  of.running_mean[i] = static_cast<T>(keep * of.running_mean[i] + of.momentum * of.mean[i]);
  of.running_var[i] = static_cast<T>(keep * of.running_var[i] + of.momentum * unbiased * of.variance[i]);
}

} // namespace robustdml::norm
