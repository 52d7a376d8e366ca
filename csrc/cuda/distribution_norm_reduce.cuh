// What the reductions of `distribution_norm` share. They reduce the values of each channel of each segment in two
// levels: every block reduces a piece into two numbers, a second kernel combines the pieces of a segment in order. Where
// every segment is one piece, the first writes the result at once. No atomics: the same input gives the same bits.
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
  double* partial; // null: none
  int64_t channels;
};

// An empty segment has mean 0 and variance 1: nothing is normalized by them, and nothing becomes infinite.
template <typename T, typename Value>
__device__ __forceinline__ void write_moments(const Result<T>& to, int64_t at, const Moments<Value>& moments) {
  to.first[at] = static_cast<T>(moments.mean);
  to.second[at] = moments.count > Value(0) ? static_cast<T>(moments.m2 / moments.count) : T(1);
}

// ---------------------------------------------------------------------------------------------- planes

// The units first, first + kThreads, first + 2·kThreads, … of a channel, without a division each.
// Blocks over planes: (piece, channel), the channel fastest.
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
  const double guess = moments && active ? result.partial[(begin * result.channels + channel) * 2] : 0.0;
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
