// Reductions of `distribution_norm` over the values of each channel of each segment, in two levels: every block
// reduces a piece into two numbers, a second kernel combines the pieces of a segment in order. Where every segment is
// one piece, the first writes the result at once. No atomics: the same input gives the same bits.
#pragma once

#include "distribution_norm_view.cuh"

namespace robustdml::norm {

constexpr int kAtOnce = 4; // accesses of a thread that are under way together

// Where two numbers of each (distribution, channel) go, [K, C] each; or, while they are partial, [pieces, C, 2].
// Moments: mean and variance. Sums: Σ dy and Σ dy·x̂.
template <typename T>
struct Result {
  T* first;
  T* second;
  T* partial; // null: none
  int64_t channels;
};

// An empty segment has mean 0 and variance 1: nothing is normalized by them, and nothing becomes infinite.
template <typename T, typename Value>
__device__ __forceinline__ void write_moments(const Result<T>& to, int64_t at, const Moments<Value>& moments) {
  to.first[at] = static_cast<T>(moments.mean);
  to.second[at] = moments.count > Value(0) ? static_cast<T>(moments.m2 / moments.count) : T(1);
}

template <typename T>
__device__ __forceinline__ void write_moments(
    const Result<T>& to, const Partition& parts, int64_t piece, int segment, int64_t channel,
    const Moments<T>& moments) {
  if (to.partial) {
    to.partial[(piece * to.channels + channel) * 2] = moments.mean;
    to.partial[(piece * to.channels + channel) * 2 + 1] = moments.m2;
  } else {
    write_moments(to, (parts.first_segment + segment) * to.channels + channel, moments);
  }
}

// What the backward sums need beside the result. Σ dy·(x − μ) is found first, and multiplied by 1/√(σ² + eps) last.
template <typename scalar_t>
struct Gradients {
  using T = accumulate_t<scalar_t>;
  const scalar_t* __restrict__ dy;
  const scalar_t* __restrict__ x;
  const scalar_t* __restrict__ y; // the forward's output where it had a ReLU, or null
  const T* __restrict__ mean;     // [K, C]
};

template <typename T>
__device__ __forceinline__ void write_sums(
    const Result<T>& to, const Partition& parts, int64_t piece, int segment, int64_t channel, const T* variance,
    T eps, T sum_dy, T sum_product) {
  if (to.partial) {
    to.partial[(piece * to.channels + channel) * 2] = sum_dy;
    to.partial[(piece * to.channels + channel) * 2 + 1] = sum_product;
  } else {
    const int64_t at = (parts.first_segment + segment) * to.channels + channel;
    to.first[at] = sum_dy;
    to.second[at] = sum_product / sqrt(variance[at] + eps);
  }
}

// merge() of a set that may be empty: its mean may be any number, whose square must not overflow.
template <typename T>
__device__ __forceinline__ Moments<T> merge_any(const Moments<T>& a, const Moments<T>& b) {
  return a.count == T(0) ? b : b.count == T(0) ? a : merge(a, b);
}

template <typename T>
__device__ __forceinline__ Moments<T> shuffle_down(const Moments<T>& m, int offset) {
  return {
      __shfl_down_sync(kAllLanes, m.count, offset), __shfl_down_sync(kAllLanes, m.mean, offset),
      __shfl_down_sync(kAllLanes, m.m2, offset)};
}

// ---------------------------------------------------------------------------------------------- planes

// The units first, first + kThreads, first + 2·kThreads, … of a channel, without a division each.
struct Walk {
  int64_t offset, pixel, plane, sample_step, step_samples, step_pixels;

  __device__ Walk(const Planes& planes, int64_t channel, int64_t unit)
      : plane(planes.plane), sample_step(planes.channels * planes.plane) {
    const int64_t sample = unit / plane;
    pixel = unit - sample * plane;
    offset = sample * sample_step + channel * plane + pixel;
    step_samples = kThreads / plane;
    step_pixels = kThreads - step_samples * plane;
  }
  __device__ void next() {
    offset += step_samples * sample_step + step_pixels;
    pixel += step_pixels;
    if (pixel >= plane) {
      pixel -= plane;
      offset += sample_step - plane;
    }
  }
};

// Block: (piece, channel), the channel fastest.
template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) plane_moments(
    const scalar_t* __restrict__ x, const Planes planes, const Partition parts,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ Moments<T> of_warps[kThreads / kWarp];
  const int64_t channel = blockIdx.x % planes.channels, index = blockIdx.x / planes.channels;
  const Piece piece = parts[index];
  Moments<T> moments{0, 0, 0};
  Walk walk(planes, channel, piece.first + threadIdx.x);
  for (int64_t unit = piece.first + threadIdx.x; unit < piece.last; unit += kAtOnce * kThreads) {
    Vector<scalar_t, count> values[kAtOnce];
    int valid = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (unit + u * kThreads < piece.last) {
        values[u] = load<count>(x + walk.offset * count);
        walk.next();
        ++valid;
      }
    }
    // Moments of these values by two looks at registers, around their mean: no cancellation, and one division.
    T sum = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int j = 0; j < count; ++j) {
        sum += u < valid ? values[u][j] : T(0);
      }
    }
    const T number = static_cast<T>(valid * count), guess = sum / number;
    T first = 0, second = 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const T centered = u < valid ? values[u][j] - guess : T(0);
        first += centered;
        second += centered * centered;
      }
    }
    moments = merge_any(moments, from_sums(number, guess, first, second));
  }
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    moments = merge_any(moments, shuffle_down(moments, offset));
  }
  if (threadIdx.x % kWarp == 0) {
    of_warps[threadIdx.x / kWarp] = moments;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / kWarp; ++w) {
      moments = merge_any(moments, of_warps[w]);
    }
    write_moments(result, parts, index, piece.segment, channel, moments);
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) plane_sums(
    const Gradients<scalar_t> of, const Planes planes, const Partition parts,
    const accumulate_t<scalar_t>* __restrict__ variance, const accumulate_t<scalar_t> eps,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  const int64_t channel = blockIdx.x % planes.channels, index = blockIdx.x / planes.channels;
  const Piece piece = parts[index];
  const T mean = of.mean[(parts.first_segment + piece.segment) * planes.channels + channel];
  T sums[2] = {0, 0};
  Walk walk(planes, channel, piece.first + threadIdx.x);
#pragma unroll 2
  for (int64_t unit = piece.first + threadIdx.x; unit < piece.last; unit += kThreads) {
    const int64_t at = walk.offset * count;
    const Vector<scalar_t, count> dy = load<count>(of.dy + at), x = load<count>(of.x + at);
    Vector<scalar_t, count> y{};
    if (of.y) {
      y = load<count>(of.y + at);
    }
    walk.next();
    T first = 0, second = 0; // of these few values alone, so that long sums lose less
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const T gradient = of.y ? relu_gradient(dy[j], y[j]) : dy[j];
      first += gradient;
      second += gradient * (x[j] - mean);
    }
    sums[0] += first;
    sums[1] += second;
  }
  block_sum(sums);
  if (threadIdx.x == 0) {
    write_sums(result, parts, index, piece.segment, channel, variance, eps, sums[0], sums[1]);
  }
}

// --------------------------------------------------------------------------------------------- columns

// A block of (x, y) threads takes a tile of whole channels; thread (i, j) vector i of the rows j, j + y, …
// Block: (piece, tile), the tile fastest.
template <int count>
struct Tile {
  int64_t index;        // of the piece
  int64_t first_column; // of the tile
  int columns, mine;    // columns in the tile; the first of this thread in it
  bool active;

  __device__ explicit Tile(const Table& table) : index(blockIdx.x / table.tiles) {
    first_column = blockIdx.x % table.tiles * table.tile;
    columns = static_cast<int>(min(table.tile, table.columns - first_column));
    mine = threadIdx.x * count;
    active = mine < columns;
  }
};

// After the threads have left their numbers in shared memory, [y][x·count]: calls add(y, place, first place, sums) for
// all places of each channel of the tile, then write(channel, first place, sums) once. A thread a channel where a
// channel is one column, else a warp (the last, incomplete one of the block stands aside).
template <typename T, typename Add, typename Write>
__device__ __forceinline__ void reduce_channels(
    const Table& table, int64_t first_column, int columns, int stride, const Add& add, const Write& write) {
  const int width = static_cast<int>(table.width), channels = columns / width;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
  if (width == 1) {
    for (int c = thread; c < channels; c += threads) {
      T sums[2] = {0, 0};
      for (int y = 0; y < blockDim.y; ++y) {
        add(y, y * stride + c, c, sums);
      }
      write(first_column + c, c, sums);
    }
    return;
  }
  const int warp = thread / kWarp, warps = threads / kWarp, lane = thread % kWarp;
  for (int c = warp; warp < warps && c < channels; c += warps) {
    T sums[2] = {0, 0};
    for (int y = 0; y < blockDim.y; ++y) {
      for (int j = lane; j < width; j += kWarp) {
        add(y, y * stride + c * width + j, c * width, sums);
      }
    }
    sums[0] = warp_sum(sums[0]);
    sums[1] = warp_sum(sums[1]);
    if (lane == 0) {
      write(first_column / width + c, c * width, sums);
    }
  }
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) column_moments(
    const scalar_t* __restrict__ x, const Table table, const Partition parts,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ T means[kThreads * count], m2s[kThreads * count];
  const Tile<count> tile(table);
  const Piece piece = parts[tile.index];
  const int64_t step = blockDim.y;
  T mean[count] = {}, m2[count] = {}, number = 0;
  if (tile.active) {
    const scalar_t* column = x + tile.first_column + tile.mine;
    for (int64_t row = piece.first + threadIdx.y; row < piece.last; row += kAtOnce * step) {
      Vector<scalar_t, count> values[kAtOnce];
      int valid = 0;
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (row + u * step < piece.last) {
          values[u] = load<count>(column + (row + u * step) * table.columns);
          ++valid;
        }
      }
      // As in plane_moments, for each column; the number of values is the same for all of them.
      const T inverse = T(1) / static_cast<T>(valid), before = number;
      number += static_cast<T>(valid);
      const T share = static_cast<T>(valid) / number;
#pragma unroll
      for (int j = 0; j < count; ++j) {
        T sum = 0, first = 0, second = 0;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          sum += u < valid ? values[u][j] : T(0);
        }
        const T guess = sum * inverse;
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const T centered = u < valid ? values[u][j] - guess : T(0);
          first += centered;
          second += centered * centered;
        }
        const Moments<T> few = from_sums(static_cast<T>(valid), guess, first, second);
        const T delta = before == T(0) ? T(0) : few.mean - mean[j];
        mean[j] = before == T(0) ? few.mean : mean[j] + delta * share;
        m2[j] += few.m2 + delta * delta * (before * share);
      }
    }
  }
  const int stride = blockDim.x * count;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    means[threadIdx.y * stride + tile.mine + j] = mean[j];
    m2s[threadIdx.y * stride + tile.mine + j] = m2[j];
  }
  __syncthreads();
  const int64_t rows = piece.last - piece.first;
  // Around the first thread row's mean, which is near all the others.
  auto add = [&](int y, int place, int from, T(&sums)[2]) {
    if (y < rows) {
      const T of_thread = static_cast<T>((rows - y + step - 1) / step), delta = means[place] - means[from];
      sums[0] += of_thread * delta;
      sums[1] += m2s[place] + of_thread * delta * delta;
    }
  };
  auto write = [&](int64_t channel, int from, T(&sums)[2]) {
    const T total = static_cast<T>(rows * table.width);
    write_moments(
        result, parts, tile.index, piece.segment, channel, from_sums(total, means[from], sums[0], sums[1]));
  };
  reduce_channels<T>(table, tile.first_column, tile.columns, stride, add, write);
}

template <typename scalar_t, int count>
__global__ void __launch_bounds__(kThreads) column_sums(
    const Gradients<scalar_t> of, const Table table, const Partition parts,
    const accumulate_t<scalar_t>* __restrict__ variance, const accumulate_t<scalar_t> eps,
    const Result<accumulate_t<scalar_t>> result) {
  using T = accumulate_t<scalar_t>;
  __shared__ T firsts[kThreads * count], seconds[kThreads * count];
  const Tile<count> tile(table);
  const Piece piece = parts[tile.index];
  T first[count] = {}, second[count] = {};
  if (tile.active) {
    T mean[count];
    const T* means = of.mean + (parts.first_segment + piece.segment) * table.channels;
#pragma unroll
    for (int j = 0; j < count; ++j) {
      mean[j] = means[(tile.first_column + tile.mine + j) / table.width];
    }
#pragma unroll 2
    for (int64_t row = piece.first + threadIdx.y; row < piece.last; row += blockDim.y) {
      const int64_t at = row * table.columns + tile.first_column + tile.mine;
      const Vector<scalar_t, count> dy = load<count>(of.dy + at), x = load<count>(of.x + at);
      Vector<scalar_t, count> y{};
      if (of.y) {
        y = load<count>(of.y + at);
      }
#pragma unroll
      for (int j = 0; j < count; ++j) {
        const T gradient = of.y ? relu_gradient(dy[j], y[j]) : dy[j];
        first[j] += gradient;
        second[j] += gradient * (x[j] - mean[j]);
      }
    }
  }
  const int stride = blockDim.x * count;
#pragma unroll
  for (int j = 0; j < count; ++j) {
    firsts[threadIdx.y * stride + tile.mine + j] = first[j];
    seconds[threadIdx.y * stride + tile.mine + j] = second[j];
  }
  __syncthreads();
  auto add = [&](int, int place, int, T(&sums)[2]) {
    sums[0] += firsts[place];
    sums[1] += seconds[place];
  };
  auto write = [&](int64_t channel, int, T(&sums)[2]) {
    write_sums(result, parts, tile.index, piece.segment, channel, variance, eps, sums[0], sums[1]);
  };
  reduce_channels<T>(table, tile.first_column, tile.columns, stride, add, write);
}

// --------------------------------------------------------------------------------------------- combine

constexpr int kCombineChannels = 8; // 64 bytes of a piece
constexpr int kCombineRows = kThreads / kCombineChannels;

// Combines the pieces of each segment, in float64. Block: (channels / 8, segments) of (8, 32) threads.
template <typename T, bool moments>
__global__ void __launch_bounds__(kThreads) combine_pieces(
    const Partition parts, const int64_t values_per_unit, const T* __restrict__ variance, const T eps,
    const Result<T> result) {
  __shared__ double firsts[kCombineRows][kCombineChannels], seconds[kCombineRows][kCombineChannels];
  const int segment = blockIdx.y;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kCombineChannels + threadIdx.x;
  const int64_t begin = parts.piece[segment], end = parts.piece[segment + 1];
  const bool active = channel < result.channels;
  // The first piece's mean is near all the others.
  const double guess = moments && active ? double(result.partial[(begin * result.channels + channel) * 2]) : 0.0;
  double first = 0, second = 0;
  if (active) {
#pragma unroll 4
    for (int64_t i = begin + threadIdx.y; i < end; i += kCombineRows) {
      const double a = result.partial[(i * result.channels + channel) * 2];
      const double b = result.partial[(i * result.channels + channel) * 2 + 1];
      if constexpr (moments) {
        const int64_t unit = parts.start[segment] + (i - begin) * parts.length;
        const int64_t units = min(parts.length, parts.start[segment + 1] - unit);
        const double count = static_cast<double>(units * values_per_unit), delta = a - guess;
        if (units > 0) {
          first += count * delta;
          second += b + count * delta * delta;
        }
      } else {
        first += a;
        second += b;
      }
    }
  }
  firsts[threadIdx.y][threadIdx.x] = first;
  seconds[threadIdx.y][threadIdx.x] = second;
  __syncthreads();
  if (threadIdx.y != 0 || !active) {
    return;
  }
  for (int y = 1; y < kCombineRows; ++y) {
    first += firsts[y][threadIdx.x];
    second += seconds[y][threadIdx.x];
  }
  const int64_t at = (parts.first_segment + segment) * result.channels + channel;
  if constexpr (moments) {
    const double count =
        static_cast<double>((parts.start[segment + 1] - parts.start[segment]) * values_per_unit);
    write_moments(result, at, from_sums(count, guess, first, second));
  } else {
    result.first[at] = static_cast<T>(first);
    result.second[at] = static_cast<T>(second / sqrt(static_cast<double>(variance[at] + eps)));
  }
}

} // namespace robustdml::norm
