// The loops of batch normalization on the CPU over the two views of a tensor (see norm_layout.h).
//
// Planes: a channel of a segment is gathered from its samples' planes; one thread takes a channel's statistics and
// normalizes it at once, while it is still in the second-level cache.
// Rows: blocks of rows are reduced column by column, the blocks are merged in order, then all rows are normalized.
// Sums run in the accumulation type within blocks of about two thousand values and in float64 between them.
#pragma once

#include "../common/distribution_norm.h"
#include "../common/norm_layout.h"
#include "../common/parallel.h"

#include <algorithm>
#include <cmath>

namespace robustdml::norm {

using Sums = std::pair<double, double>;

constexpr int64_t kBlock = 2048;

// Computes value(i) for i in [0, count) into `result`, around the cache if `streamed`. `value` is taken by value, so
// that the compiler sees no pointer that a store could change.
template <typename scalar_t, typename Value>
void write(scalar_t* result, int64_t count, bool streamed, Value value) {
  if (!streamed) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      result[i] = static_cast<scalar_t>(value(i));
    }
    return;
  }
  alignas(64) scalar_t block[kBlock];
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t length = std::min(kBlock, count - start);
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      block[i] = static_cast<scalar_t>(value(start + i));
    }
    stream_copy(result + start, block, length * sizeof(scalar_t));
  }
}

// ---------------------------------------------------------------------------------------------- planes

// One channel of the samples [first, last).
struct Channel {
  int64_t first, last, channel, channels, pixels;

  int64_t plane(int64_t sample) const {
    return (sample * channels + channel) * pixels;
  }
  double values() const {
    return static_cast<double>((last - first) * pixels);
  }
  // Calls body(offset, count) for contiguous pieces of at most kBlock values.
  template <typename Body>
  void pieces(const Body& body) const {
    for (int64_t sample = first; sample < last; ++sample) {
      for (int64_t start = 0; start < pixels; start += kBlock) {
        body(plane(sample) + start, std::min(kBlock, pixels - start));
      }
    }
  }
};

template <typename T>
Moments<double> block_moments(const T* block, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    sum += block[i];
  }
  const T guess = sum / T(count);
  T first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
  for (int64_t i = 0; i < count; ++i) {
    const T centered = block[i] - guess;
    first += centered;
    second += centered * centered;
  }
  return from_sums<double>(static_cast<double>(count), guess, first, second);
}

template <typename scalar_t>
Moments<double> channel_moments(const scalar_t* x, const Channel& channel) {
  using T = accumulate_t<scalar_t>;
  alignas(64) T block[kBlock];
  Moments<double> moments{0, 0, 0};
  int64_t filled = 0;
  channel.pieces([&](int64_t offset, int64_t count) {
    if (filled + count > kBlock) {
      moments = merge(moments, block_moments(block, filled));
      filled = 0;
    }
    const scalar_t* from = x + offset;
    T* to = block + filled;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      to[i] = T(from[i]);
    }
    filled += count;
  });
  return filled > 0 ? merge(moments, block_moments(block, filled)) : moments;
}

template <bool has_residual, bool has_relu, typename scalar_t, typename T>
void normalize_channel(
    const scalar_t* x, const scalar_t* residual, scalar_t* y, const Channel& channel, T mean, T scale, T bias,
    bool streamed) {
  for (int64_t sample = channel.first; sample < channel.last; ++sample) {
    const int64_t offset = channel.plane(sample);
    const scalar_t *x_ = x + offset, *r_ = has_residual ? residual + offset : nullptr;
    write(y + offset, channel.pixels, streamed, [=](int64_t i) {
      T value = normalize(T(x_[i]), mean, scale, bias);
      if constexpr (has_residual) {
        value += T(r_[i]);
      }
      return has_relu ? relu(value) : value;
    });
  }
}

// (Σ dy, Σ dy·(x − μ)) of a channel.
template <bool has_relu, typename scalar_t, typename T>
Sums channel_sums(const scalar_t* dy, const scalar_t* x, const scalar_t* y, const Channel& channel, T mean) {
  // Conversions from half precision keep a loop scalar, and one long chain of float sums loses digits that several
  // short ones keep.
  using sum_t = std::conditional_t<sizeof(scalar_t) == 2, double, T>;
  Sums sums{0, 0};
  channel.pieces([&](int64_t offset, int64_t count) {
    const scalar_t *dy_ = dy + offset, *x_ = x + offset, *y_ = has_relu ? y + offset : nullptr;
    sum_t first = 0, second = 0;
#pragma omp simd reduction(+ : first, second)
    for (int64_t i = 0; i < count; ++i) {
      T gradient = T(dy_[i]);
      if constexpr (has_relu) {
        gradient = relu_gradient(gradient, T(y_[i]));
      }
      first += gradient;
      second += gradient * (T(x_[i]) - mean);
    }
    sums.first += first;
    sums.second += second;
  });
  return sums;
}

template <bool has_relu, bool through, typename scalar_t, typename T>
void backward_channel(
    const scalar_t* dy, const scalar_t* x, const scalar_t* y, scalar_t* dx, scalar_t* dresidual,
    const Channel& channel, Backward<T> b, bool streamed) {
  for (int64_t sample = channel.first; sample < channel.last; ++sample) {
    const int64_t offset = channel.plane(sample);
    const scalar_t *dy_ = dy + offset, *x_ = x + offset, *y_ = has_relu ? y + offset : nullptr;
    auto gradient = [=](int64_t i) {
      return has_relu ? relu_gradient(T(dy_[i]), T(y_[i])) : T(dy_[i]);
    };
    write(dx + offset, channel.pixels, streamed, [=](int64_t i) {
      const T flow = gradient(i) * b.scale;
      return through ? flow - b.offset - (T(x_[i]) - b.mean) * b.slope : flow;
    });
    if (dresidual) {
      write(dresidual + offset, channel.pixels, streamed, gradient);
    }
  }
}

// ------------------------------------------------------------------------------------------------ rows

// A run of rows inside one segment.
struct RowBlock {
  int64_t segment, first, last;
};

inline std::vector<RowBlock> row_blocks(const Layout& layout, const std::vector<int64_t>& segments) {
  // Short enough that a sum of single-precision values down a column keeps its digits, long enough to fill a block.
  const int64_t height = std::clamp<int64_t>(8 * kBlock / std::max<int64_t>(layout.columns(), 1), 16, 64);
  std::vector<RowBlock> blocks;
  int64_t start = 0;
  for (size_t k = 0; k < segments.size(); ++k) {
    const int64_t end = start + segments[k] * layout.rows_per_sample();
    for (int64_t row = start; row < end; row += height) {
      blocks.push_back({static_cast<int64_t>(k), row, std::min(row + height, end)});
    }
    start = end;
  }
  return blocks;
}

// What from_sums needs of every column of a block: a guess of the mean, Σ(x − guess) and Σ(x − guess)², `columns` each.
template <typename scalar_t, typename T>
void block_column_moments(const scalar_t* x, const RowBlock& block, int64_t columns, T* guess, T* first, T* second) {
  const T count = T(block.last - block.first);
  std::fill_n(guess, columns, T(0));
  std::fill_n(first, columns, T(0));
  std::fill_n(second, columns, T(0));
  for (int64_t row = block.first; row < block.last; ++row) {
    const scalar_t* x_ = x + row * columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      guess[j] += T(x_[j]);
    }
  }
  for (int64_t j = 0; j < columns; ++j) {
    guess[j] /= count;
  }
  for (int64_t row = block.first; row < block.last; ++row) {
    const scalar_t* x_ = x + row * columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const T centered = T(x_[j]) - guess[j];
      first[j] += centered;
      second[j] += centered * centered;
    }
  }
}

template <bool has_relu, typename scalar_t, typename T>
void block_column_sums(
    const scalar_t* dy, const scalar_t* x, const scalar_t* y, const RowBlock& block, int64_t columns,
    const T* mean, T* first, T* second) {
  std::fill_n(first, columns, T(0));
  std::fill_n(second, columns, T(0));
  for (int64_t row = block.first; row < block.last; ++row) {
    const int64_t offset = row * columns;
    const scalar_t *dy_ = dy + offset, *x_ = x + offset, *y_ = has_relu ? y + offset : nullptr;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) {
      const T gradient = has_relu ? relu_gradient(T(dy_[j]), T(y_[j])) : T(dy_[j]);
      first[j] += gradient;
      second[j] += gradient * (T(x_[j]) - mean[j]);
    }
  }
}

template <bool has_residual, bool has_relu, typename scalar_t, typename T>
void normalize_rows(
    const scalar_t* x, const scalar_t* residual, scalar_t* y, const RowBlock& block, int64_t columns,
    const T* mean, const T* scale, const T* bias, bool streamed) {
  for (int64_t row = block.first; row < block.last; ++row) {
    const int64_t offset = row * columns;
    const scalar_t *x_ = x + offset, *r_ = has_residual ? residual + offset : nullptr;
    write(y + offset, columns, streamed, [=](int64_t j) {
      T value = normalize(T(x_[j]), mean[j], scale[j], bias[j]);
      if constexpr (has_residual) {
        value += T(r_[j]);
      }
      return has_relu ? relu(value) : value;
    });
  }
}

// The four numbers of norm::Backward, one array of `columns` each.
template <bool has_relu, bool through, typename scalar_t, typename T>
void backward_rows(
    const scalar_t* dy, const scalar_t* x, const scalar_t* y, scalar_t* dx, scalar_t* dresidual,
    const RowBlock& block, int64_t columns, const T* mean, const T* scale, const T* offsets, const T* slope,
    bool streamed) {
  for (int64_t row = block.first; row < block.last; ++row) {
    const int64_t offset = row * columns;
    const scalar_t *dy_ = dy + offset, *x_ = x + offset, *y_ = has_relu ? y + offset : nullptr;
    auto gradient = [=](int64_t j) {
      return has_relu ? relu_gradient(T(dy_[j]), T(y_[j])) : T(dy_[j]);
    };
    write(dx + offset, columns, streamed, [=](int64_t j) {
      const T flow = gradient(j) * scale[j];
      return through ? flow - offsets[j] - (T(x_[j]) - mean[j]) * slope[j] : flow;
    });
    if (dresidual) {
      write(dresidual + offset, columns, streamed, gradient);
    }
  }
}

} // namespace robustdml::norm
