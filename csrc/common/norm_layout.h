// How `distribution_norm` sees its tensors: a table of rows and columns, or planes, and K segments of samples.
#pragma once

#include "tensor.h"

#include <algorithm>

namespace robustdml::norm {

// Images smaller than this many pixels are too short for loops of their own; whole samples are taken as rows instead.
constexpr int64_t kSmallestPlane = 32;

// `rows`: a row is a few pixels with all their channels (channels-last, or no pixels), or a whole small sample.
// `planes`: a plane is one channel of one sample (contiguous images).
struct Layout {
  int64_t samples, channels, pixels;
  bool channels_last;
  int64_t pixels_per_row; // of a channels-last row

  bool as_rows() const {
    return channels_last || pixels < kSmallestPlane;
  }
  int64_t rows_per_sample() const {
    return channels_last ? pixels / pixels_per_row : 1;
  }
  int64_t columns() const {
    return columns_per_channel() * channels;
  }
  int64_t columns_per_channel() const {
    return channels_last ? pixels_per_row : pixels;
  }
  // The t-th column of a row that belongs to a channel.
  int64_t column(int64_t channel, int64_t t) const {
    return channels_last ? t * channels + channel : channel * pixels + t;
  }
};

// As many pixels in a row as make a loop of useful length; a divisor, so that rows never cross samples.
inline int64_t pixels_per_row(int64_t pixels, int64_t channels) {
  constexpr int64_t kColumns = 512;
  for (int64_t count = std::min<int64_t>(pixels, kColumns / std::max<int64_t>(channels, 1)); count > 1; --count) {
    if (pixels % count == 0) {
      return count;
    }
  }
  return 1;
}

inline Layout layout_of(const Tensor& input) {
  int64_t pixels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) {
    pixels *= input.size(d);
  }
  const bool channels_last = !input.is_contiguous() && is_channels_last(input);
  return {input.size(0), input.size(1), pixels, channels_last, pixels_per_row(pixels, input.size(1))};
}

inline void check_arguments(const Tensor& input, const std::vector<int64_t>& segments) {
  STD_TORCH_CHECK(
      input.dim() >= 2 && input.dim() <= 4, "distribution_norm: expected [N, C], [N, C, L] or [N, C, H, W]");
  int64_t total = 0;
  for (int64_t size : segments) {
    STD_TORCH_CHECK(size >= 0, "distribution_norm: segments must not be negative");
    // Before it is added: sizes past the largest integer could add up to the batch.
    STD_TORCH_CHECK(size <= input.size(0) - total, "distribution_norm: segments are more than the batch");
    total += size;
  }
  STD_TORCH_CHECK(
      total == input.size(0), "distribution_norm: segments add up to ", total, ", the batch is ", input.size(0));
}

// Weight, bias, mean, variance: contiguous [K, C] in the type that sums are kept in.
inline void check_parameter(const Tensor& value, const Tensor& input, const std::vector<int64_t>& segments) {
  STD_TORCH_CHECK(
      value.dim() == 2 && value.size(0) == static_cast<int64_t>(segments.size()) &&
          value.size(1) == input.size(1) && value.scalar_type() == accumulate_type(input.scalar_type()),
      "distribution_norm: parameters and statistics must be [K, C] in float32 (float64 for float64 input)");
}

inline void check_like(const Tensor& value, const Tensor& input) {
  STD_TORCH_CHECK(
      same_shape(value, input) && value.scalar_type() == input.scalar_type(),
      "distribution_norm: expected a tensor of the shape and dtype of the input");
}

inline Tensor flat(const Tensor& input) {
  return is_flat(input) ? input : as_contiguous(input);
}

// A result computed in the order of flat(input), in the order that PyTorch would give it: the input's own.
inline Tensor unflat(const Tensor& input, const Tensor& result) {
  return is_flat(input) ? result : in_layout_of(torch::stable::empty_like(input), result);
}

} // namespace robustdml::norm
