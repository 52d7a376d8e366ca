// Which kernels of `distribution_norm` run over which part of a tensor. Forward: a reduction, its second level where the
// tensor is large, and one pass that normalizes; backward likewise.
#pragma once

#include "distribution_norm_apply.cuh"
#include "distribution_norm_moments.cuh"
#include "distribution_norm_sums.cuh"

namespace robustdml::norm {

// Starts the kernels on one tensor, of `scalar_t`.
template <typename scalar_t>
struct Pass {
  using T = accumulate_t<scalar_t>;
  const Device& device;
  const Tensor& model;
  Layout layout;
  const std::vector<int64_t>& segments;
  double eps;

  Pass(const Device& device, const Tensor& input, const std::vector<int64_t>& segments, double eps)
      : device(device), model(input), layout(layout_of(input)), segments(segments), eps(eps) {}

  // Values of a 16-byte access where all these pointers allow it. A vector never leaves its row or plane.
  template <typename... Pointers>
  int vector(const Pointers*... pointers) const {
    return aligned(pointers...) ? kVector<scalar_t> : 1;
  }

  // Reduces to two numbers a channel and segment: reduce(geometry, part, result) starts the first level.
  template <bool moments, typename Reduce>
  void two_levels(const Geometry& g, const T* variance, T* first, T* second, const Reduce& reduce) const {
    for (const Partition& part : partition(segments, g.units_per_sample, g.length, true)) {
      Result<T> result{first, second, nullptr, layout.channels};
      if (part.one_piece_each()) {
        reduce(part, result);
        continue;
      }
      Tensor partial =
          new_empty_like_type(model, {part.pieces(), layout.channels, 2}, ScalarType::Double);
      result.partial = mutable_data<double>(partial);
      reduce(part, result);
      launch(
          device, combine_pieces<T, moments>, divide_up(layout.channels, kCombineChannels), part.segments,
          dim3(kCombineChannels, kCombineRows), part, g.values_per_unit, variance, static_cast<T>(eps), result);
    }
  }

  void statistics(const scalar_t* x, T* mean, T* variance) const {
    const Geometry g = reduction_geometry(layout, vector(x), sizeof(scalar_t));
    two_levels<true>(g, variance, mean, variance, [&](const Partition& part, const Result<T>& result) {
      dispatch_vector<scalar_t>(g.vector > 1, [&](auto count) {
        if (g.planes) {
          const Planes planes{std::max<int64_t>(g.units_per_sample, 1), layout.channels};
          launch(
              device, plane_moments<scalar_t, count>, part.pieces() * layout.channels, 1, g.threads, x, planes,
              part, result);
        } else {
          launch(
              device, column_moments<scalar_t, count>, part.pieces() * g.table.tiles, 1, g.threads, x, g.table,
              part, result);
        }
      });
    });
  }

  void sums(const Gradients<scalar_t>& of, const T* variance, T* sum_dy, T* sum_dy_xhat) const {
    const Geometry g = reduction_geometry(layout, vector(of.dy, of.x, of.y), sizeof(scalar_t));
    two_levels<false>(g, variance, sum_dy, sum_dy_xhat, [&](const Partition& part, const Result<T>& result) {
      dispatch_vector<scalar_t>(g.vector > 1, [&](auto count) {
        if (g.planes) {
          const Planes planes{std::max<int64_t>(g.units_per_sample, 1), layout.channels};
          launch(
              device, plane_sums<scalar_t, count>, part.pieces() * layout.channels, 1, g.threads, of, planes, part,
              variance, static_cast<T>(eps), result);
        } else {
          launch(
              device, column_sums<scalar_t, count>, part.pieces() * g.table.tiles, 1, g.threads, of, g.table, part,
              variance, static_cast<T>(eps), result);
        }
      });
    });
  }

  // body(geometry, part, std::integral_constant<int, values per access>) for all elements.
  template <typename Body>
  void elementwise(int most, const Body& body) const {
    if (layout.samples * layout.pixels * layout.channels == 0) {
      return;
    }
    const Geometry g = elementwise_geometry(layout, most);
    for (const Partition& part : partition(segments, g.units_per_sample, g.length, false)) {
      dispatch_vector<scalar_t>(g.vector > 1, [&](auto count) { body(g, part, count); });
    }
  }

  void normalize(const Normalize<scalar_t>& of) const {
    elementwise(vector(of.x, of.residual, of.y), [&](const Geometry& g, const Partition& part, auto count) {
      launch(
          device, normalize_kernel<scalar_t, count>, part.pieces() * g.table.tiles, 1, g.threads, of, g.table, part);
    });
  }

  void backward(const Flow<scalar_t>& of, const std::vector<int64_t>& values) const {
    const int most = vector(of.dy, of.x, of.y, of.dx, of.dresidual);
    elementwise(most, [&](const Geometry& g, const Partition& part, auto count) {
      Counts counts{};
      for (int s = 0; s < part.segments && !values.empty(); ++s) {
        counts.of[s] = static_cast<double>(values[part.first_segment + s]);
      }
      launch(
          device, backward_kernel<scalar_t, count>, part.pieces() * g.table.tiles, 1, g.threads, of, counts, g.table,
          part);
    });
  }
};

} // namespace robustdml::norm
