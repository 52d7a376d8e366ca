// Which of the loops in distribution_norm.h run over which part of a tensor, forwards and backwards.
#pragma once

#include "distribution_norm.h"

namespace robustdml::norm {

// Everything the passes below share. `T` is the type of statistics and parameters.
template <typename scalar_t>
struct Pass {
  using T = accumulate_t<scalar_t>;
  Layout layout;
  std::vector<int64_t> segments;
  std::vector<int64_t> starts; // first sample of each segment
  bool streamed;

  Pass(const Tensor& input, const std::vector<int64_t>& sizes)
      : layout(layout_of(input)),
        segments(sizes),
        streamed(
            input.numel() * static_cast<int64_t>(sizeof(scalar_t)) >= kStreamedBytes &&
            run_length(layout) * static_cast<int64_t>(sizeof(scalar_t)) >= kStreamedRun) {
    int64_t start = 0;
    for (int64_t size : segments) {
      starts.push_back(start);
      start += size;
    }
  }

  static int64_t run_length(const Layout& layout) {
    return layout.as_rows() ? layout.columns() : layout.pixels;
  }

  int64_t distributions() const {
    return static_cast<int64_t>(segments.size());
  }

  // Calls body(k, c, index into [K, C], Channel) for each channel of each segment, on several threads.
  template <typename Body>
  void channels(const Body& body) const {
    const int64_t elements = layout.samples * layout.pixels / std::max<int64_t>(distributions(), 1);
    parallel_tasks(distributions() * layout.channels, elements, [&](int64_t i) {
      const int64_t k = i / layout.channels, c = i % layout.channels;
      body(i, Channel{starts[k], starts[k] + segments[k], c, layout.channels, layout.pixels});
    });
  }

  // value(i) for all i in [K, C].
  template <typename Result, typename Value>
  std::vector<Result> of_all_channels(const Value& value) const {
    std::vector<Result> all(distributions() * layout.channels);
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = value(static_cast<int64_t>(i));
    }
    return all;
  }

  // Calls body as `channels` does, but sample after sample, in the order of memory: for passes that only read a
  // channel's statistics.
  template <typename Body>
  void planes(const Body& body) const {
    std::vector<int64_t> segment_of(layout.samples);
    for (int64_t k = 0; k < distributions(); ++k) {
      std::fill_n(segment_of.begin() + starts[k], segments[k], k);
    }
    parallel_tasks(layout.samples, layout.channels * layout.pixels, [&](int64_t sample) {
      for (int64_t c = 0; c < layout.channels; ++c) {
        body(
            segment_of[sample] * layout.channels + c,
            Channel{sample, sample + 1, c, layout.channels, layout.pixels});
      }
    });
  }

  template <typename Body>
  void blocks(const std::vector<RowBlock>& blocks, const Body& body) const {
    const int64_t height = blocks.empty() ? 0 : blocks[0].last - blocks[0].first;
    parallel_tasks(static_cast<int64_t>(blocks.size()), height * layout.columns(), [&](int64_t i) {
      body(i, blocks[i]);
    });
  }

  // values[k·C + c] spread over the columns of the rows of segment k: [K, columns].
  template <typename Value>
  std::vector<T> spread(const Value& value) const {
    std::vector<T> columns(distributions() * layout.columns());
    for (int64_t i = 0; i < distributions() * layout.channels; ++i) {
      T* of_segment = columns.data() + i / layout.channels * layout.columns();
      const T of_channel = static_cast<T>(value(i));
      for (int64_t t = 0; t < layout.columns_per_channel(); ++t) {
        of_segment[layout.column(i % layout.channels, t)] = of_channel;
      }
    }
    return columns;
  }

  void row_statistics(const std::vector<RowBlock>& row_blocks, const scalar_t* x, T* mean, T* variance) const {
    const int64_t columns = layout.columns();
    std::vector<T> partial(row_blocks.size() * 3 * columns);
    blocks(row_blocks, [&](int64_t i, const RowBlock& block) {
      T* guess = partial.data() + i * 3 * columns;
      block_column_moments(x, block, columns, guess, guess + columns, guess + 2 * columns);
    });
    // Blocks into columns, all columns of a segment at a time; then the columns of a channel into one.
    std::vector<double> count(distributions(), 0), merged_mean(distributions() * columns, 0),
        merged_m2(distributions() * columns, 0);
    for (size_t i = 0; i < row_blocks.size(); ++i) {
      const RowBlock& block = row_blocks[i];
      const T *guess = partial.data() + i * 3 * columns, *first = guess + columns, *second = first + columns;
      double *to_mean = merged_mean.data() + block.segment * columns,
             *to_m2 = merged_m2.data() + block.segment * columns;
      const double before = count[block.segment], added = static_cast<double>(block.last - block.first);
      count[block.segment] += added;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) {
        const Moments<double> moments =
            merge<double>({before, to_mean[j], to_m2[j]}, from_sums<double>(added, guess[j], first[j], second[j]));
        to_mean[j] = moments.mean;
        to_m2[j] = moments.m2;
      }
    }
    for (int64_t i = 0; i < distributions() * layout.channels; ++i) {
      const int64_t k = i / layout.channels;
      Moments<double> moments{0, 0, 0};
      for (int64_t t = 0; t < layout.columns_per_channel(); ++t) {
        const int64_t j = k * columns + layout.column(i % layout.channels, t);
        moments = merge(moments, {count[k], merged_mean[j], merged_m2[j]});
      }
      store_moments(moments, mean + i, variance + i);
    }
  }

  // An empty segment has mean 0 and variance 1: nothing is normalized by them, and nothing becomes infinite.
  static void store_moments(const Moments<double>& moments, T* mean, T* variance) {
    *mean = static_cast<T>(moments.mean);
    *variance = moments.count > 0 ? static_cast<T>(moments.m2 / moments.count) : T(1);
  }

  void statistics(const scalar_t* x, T* mean, T* variance) const {
    if (layout.as_rows()) {
      row_statistics(row_blocks(layout, segments), x, mean, variance);
      return;
    }
    channels([&](int64_t i, const Channel& channel) {
      store_moments(channel_moments(x, channel), mean + i, variance + i);
    });
  }

  template <bool has_residual, bool has_relu>
  void forward(
      const scalar_t* x, const scalar_t* residual, scalar_t* y, const T* weight, const T* bias, T* mean,
      T* variance, double eps, bool of_batch) const {
    auto scale = [&](int64_t i) { return static_cast<T>(weight[i] / std::sqrt(double(variance[i]) + eps)); };
    if (!layout.as_rows()) {
      if (!of_batch) {
        // Once a channel, not once a plane: on small planes the root would take longer than the pixels.
        const std::vector<T> scales = of_all_channels<T>(scale);
        planes([&](int64_t i, const Channel& channel) {
          normalize_channel<has_residual, has_relu, scalar_t, T>(
              x, residual, y, channel, mean[i], scales[i], bias[i], streamed);
        });
        return;
      }
      channels([&](int64_t i, const Channel& channel) {
        store_moments(channel_moments(x, channel), mean + i, variance + i);
        normalize_channel<has_residual, has_relu, scalar_t, T>(
            x, residual, y, channel, mean[i], scale(i), bias[i], streamed);
      });
      return;
    }
    const std::vector<RowBlock> row_blocks = norm::row_blocks(layout, segments);
    if (of_batch) {
      row_statistics(row_blocks, x, mean, variance);
    }
    const std::vector<T> means = spread([&](int64_t i) { return mean[i]; }), scales = spread(scale),
                         biases = spread([&](int64_t i) { return bias[i]; });
    blocks(row_blocks, [&](int64_t, const RowBlock& block) {
      const int64_t of = block.segment * layout.columns();
      normalize_rows<has_residual, has_relu, scalar_t, T>(
          x, residual, y, block, layout.columns(), means.data() + of, scales.data() + of, biases.data() + of,
          streamed);
    });
  }

  // Σ dy and Σ dy·x̂ into sums [2, K, C].
  template <bool has_relu>
  void row_sums(
      const std::vector<RowBlock>& row_blocks, const scalar_t* dy, const scalar_t* x, const scalar_t* y,
      const T* mean, const T* variance, double eps, T* sums) const {
    const int64_t columns = layout.columns();
    const int64_t total = distributions() * layout.channels;
    const std::vector<T> means = spread([&](int64_t i) { return mean[i]; });
    std::vector<T> partial(row_blocks.size() * 2 * columns);
    blocks(row_blocks, [&](int64_t i, const RowBlock& block) {
      T* first = partial.data() + i * 2 * columns;
      block_column_sums<has_relu>(
          dy, x, y, block, columns, means.data() + block.segment * columns, first, first + columns);
    });
    std::vector<double> merged(distributions() * 2 * columns, 0);
    for (size_t i = 0; i < row_blocks.size(); ++i) {
      const T* from = partial.data() + i * 2 * columns;
      double* to = merged.data() + row_blocks[i].segment * 2 * columns;
#pragma omp simd
      for (int64_t j = 0; j < 2 * columns; ++j) {
        to[j] += from[j];
      }
    }
    for (int64_t i = 0; i < total; ++i) {
      const double* of_segment = merged.data() + (i / layout.channels) * 2 * columns;
      Sums of_channel{0, 0};
      for (int64_t t = 0; t < layout.columns_per_channel(); ++t) {
        const int64_t j = layout.column(i % layout.channels, t);
        of_channel.first += of_segment[j];
        of_channel.second += of_segment[columns + j];
      }
      store_sums(of_channel, variance[i], eps, sums + i, sums + total + i);
    }
  }

  static void store_sums(const Sums& sums, T variance, double eps, T* sum_dy, T* sum_dy_xhat) {
    *sum_dy = static_cast<T>(sums.first);
    *sum_dy_xhat = static_cast<T>(sums.second / std::sqrt(double(variance) + eps));
  }

  template <bool has_relu>
  void sums(
      const scalar_t* dy, const scalar_t* x, const scalar_t* y, const T* mean, const T* variance, double eps,
      T* result) const {
    if (layout.as_rows()) {
      row_sums<has_relu>(row_blocks(layout, segments), dy, x, y, mean, variance, eps, result);
      return;
    }
    const int64_t total = distributions() * layout.channels;
    channels([&](int64_t i, const Channel& channel) {
      store_sums(
          channel_sums<has_relu, scalar_t, T>(dy, x, y, channel, mean[i]), variance[i], eps, result + i,
          result + total + i);
    });
  }

  // `sums` [2, K, C] are found first where `find_sums`, else read; `counts` null: the statistics are constants.
  template <bool has_relu, bool through>
  void backward(
      const scalar_t* dy, const scalar_t* x, const scalar_t* y, scalar_t* dx, scalar_t* dresidual,
      const T* weight, const T* mean, const T* variance, T* sums, bool find_sums, const int64_t* counts,
      double eps) const {
    const int64_t total = distributions() * layout.channels;
    auto of_channel = [&](int64_t i) {
      const double inverse = 1 / std::sqrt(double(variance[i]) + eps);
      const Backward<double> b = backward_of<double>(
          weight[i], mean[i], inverse, through ? sums[i] : 0, through ? sums[total + i] : 0,
          through ? static_cast<double>(counts[i / layout.channels]) : 0);
      return Backward<T>{T(b.mean), T(b.scale), T(b.offset), T(b.slope)};
    };
    if (!layout.as_rows()) {
      if (!find_sums) {
        const auto of_channels = of_all_channels<Backward<T>>(of_channel);
        planes([&](int64_t i, const Channel& channel) {
          backward_channel<has_relu, through, scalar_t, T>(
              dy, x, y, dx, dresidual, channel, of_channels[i], streamed);
        });
        return;
      }
      channels([&](int64_t i, const Channel& channel) {
        store_sums(
            channel_sums<has_relu, scalar_t, T>(dy, x, y, channel, mean[i]), variance[i], eps, sums + i,
            sums + total + i);
        backward_channel<has_relu, through, scalar_t, T>(
            dy, x, y, dx, dresidual, channel, of_channel(i), streamed);
      });
      return;
    }
    const std::vector<RowBlock> row_blocks = norm::row_blocks(layout, segments);
    if (find_sums) {
      row_sums<has_relu>(row_blocks, dy, x, y, mean, variance, eps, sums);
    }
    const std::vector<T> means = spread([&](int64_t i) { return of_channel(i).mean; }),
                         scales = spread([&](int64_t i) { return of_channel(i).scale; }),
                         offsets = spread([&](int64_t i) { return of_channel(i).offset; }),
                         slopes = spread([&](int64_t i) { return of_channel(i).slope; });
    blocks(row_blocks, [&](int64_t, const RowBlock& block) {
      const int64_t of = block.segment * layout.columns();
      backward_rows<has_relu, through, scalar_t, T>(
          dy, x, y, dx, dresidual, block, layout.columns(), means.data() + of, scales.data() + of,
          offsets.data() + of, slopes.data() + of, streamed);
    });
  }
};

} // namespace robustdml::norm
