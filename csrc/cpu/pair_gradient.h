// The backward pass of the pair losses: every tile is made again, turned into the weights that its rows have on each
// other's gradients, and multiplied with the rows while it is in cache.
#pragma once

#include "pair_job.h"
#include "pair_roles.h"

namespace robustdml::pairs {

// Sums over what the rows are weighted with, and over the weights themselves.
template <typename T>
struct Gradient {
  Buffer<T> sums;     // Σ_j w_ij y_j, in column panels
  Lanes<T> weights;   // Σ_j w_ij, where distances are compared: their slope is w_ij (y_j − x_i)
  bool of_distances = false;

  Gradient() = default;
  Gradient(const Side<T>& side, bool of_distances)
      : sums(gemm::column_panels_size<T>(side.padded, side.depth)), weights(of_distances ? side.padded : 0, T(0)),
        of_distances(of_distances) {
    sums.fill(T(0));
  }
  T* block(const Side<T>&, int64_t block) const {
    return sums.get() + block * kTile * kColumns<T>;
  }
};

// Brings the sums back to the rows' own order, type and length: through the scaling to unit length, dL/dx is
// (g − u⟨u, g⟩) / |x|.
template <typename T>
void write_gradient(const Side<T>& side, const Gradient<T>& gradient, bool normalized, const Tensor& out) {
  constexpr int64_t width = kColumns<T>;
  const int64_t depth = side.depth;
  dispatch_floating(out.scalar_type(), "pair_loss", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    if constexpr (std::is_same_v<accumulate_t<scalar_t>, T>) {
      scalar_t* rows = mutable_data<scalar_t>(out);
      parallel_tasks(side.count, depth * 4, [&](int64_t i) {
        scalar_t* to = rows + side.order[i] * depth;
        const T own = gradient.of_distances ? static_cast<T>(-merged_sum(gradient.weights, i)) : T(0);
        double along = 0;
        if (normalized) {
          for (int64_t k = 0; k < depth; k += width) {
            const T *u = side.columns.get() + (k / width * side.padded + i) * width,
                    *g = gradient.sums.get() + (k / width * side.padded + i) * width;
#pragma omp simd reduction(+ : along)
            for (int64_t c = 0; c < width; ++c) { // past the last component both are zero
              along += static_cast<double>(u[c]) * static_cast<double>(g[c] + own * u[c]);
            }
          }
        }
        const double inverse = side.inverse[i];
        for (int64_t k = 0; k < depth; k += width) {
          const T *u = side.columns.get() + (k / width * side.padded + i) * width,
                  *g = gradient.sums.get() + (k / width * side.padded + i) * width;
          for (int64_t c = 0; c < std::min(width, depth - k); ++c) {
            const T of_unit = g[c] + own * u[c];
            to[k + c] = static_cast<scalar_t>(
                normalized ? static_cast<T>((static_cast<double>(of_unit) - along * static_cast<double>(u[c])) * inverse)
                           : of_unit);
          }
        }
      });
    }
  });
}

// Parameters of the anchors' side or of the others', as the slopes read them: [4][padded].
template <typename T>
Buffer<T> slope_parameters(const Job& job, const Side<T>& side, int64_t offset) {
  Buffer<T> parameters(4 * side.padded);
  parameters.fill(T(0));
  for (int64_t k = 0; k < 4; ++k) {
    for (int64_t i = 0; i < side.count; ++i) {
      parameters[k * side.padded + i] = static_cast<T>(job.row(k)[offset + i]);
    }
  }
  return parameters;
}

template <typename T, typename Loss>
class BackwardTile {
 public:
  static constexpr bool of_distances = Loss::measure == Measure::distance ||
      Loss::measure == Measure::negative_distance || Loss::measure == Measure::squared_distance;

  BackwardTile(const Sets<T>& sets, const Loss& loss, const Job& job)
      : sets_(sets), loss_(loss), mine_(slope_parameters(job, sets.anchors, 0)) {
    if (!sets.symmetric && !Loss::anchors_only) {
      theirs_ = slope_parameters(job, sets.second, sets.anchors.count);
    }
  }

  // values → weights, in place.
  void weigh(int64_t i, int64_t j, T* tile, const Gradient<T>& own, const Gradient<T>& other) const {
    dispatch_bool(sets_.masked(i, j), [&](auto masked) {
      dispatch_bool(sets_.symmetric, [&](auto symmetric) { weigh<masked, symmetric>(i, j, tile, own, other); });
    });
  }

 private:
  using V = Vector<T>;

  template <bool masked, bool symmetric>
  void weigh(int64_t i, int64_t j, T* tile, const Gradient<T>& own, const Gradient<T>& other) const {
    constexpr bool both = symmetric || !Loss::anchors_only;
    using Role = RowRole<T>;
    const Side<T>&a = sets_.anchors, &b = sets_.others();
    const Role role{tile, a.rows_of(i), b.rows_of(j)};
    const Block<T> block{
        a.code.get() + i * kTile, a.id.get() + i * kTile, b.code.get() + j * kTile, b.id.get() + j * kTile, i * kTile};
    const T* mine = mine_.get() + i * kTile;
    const T* theirs = (symmetric ? mine_.get() : theirs_.get()) + j * kTile;
    const bool count_columns = of_distances && (symmetric ? i != j : other.of_distances);
    for (int64_t r = 0; r < role.rows; ++r) {
      V anchor[4], column[4] = {};
      for (int64_t k = 0; k < 4; ++k) {
        anchor[k] = splat<T>(mine[k * a.padded + r]);
      }
      V row_sum = {};
      for (int64_t o = 0; o < role.others(); ++o) {
        if constexpr (both) {
          for (int64_t k = 0; k < 4; ++k) {
            column[k] = load<T>(theirs + k * b.padded + o * kLanes<T>);
          }
        }
        const V v = role.value(r, o);
        V weight = loss_.different(anchor, v);
        if constexpr (both) {
          weight += loss_.different(column, v);
        }
        if constexpr (masked) {
          weight = other_class<T, Role>(block, r, o) ? weight : V{};
          V near = loss_.same(anchor, column, v);
          if constexpr (symmetric) {
            near += loss_.same(column, anchor, v);
          }
          weight = same_class<T, Role>(block, r, o) ? near : weight;
        }
        if constexpr (Loss::measure == Measure::squared_distance) {
          weight *= T(-2);
        } else if constexpr (of_distances) {
          weight = v == 0 ? V{} : -weight / v;
        }
        if constexpr (of_distances) {
          row_sum += weight;
          if (count_columns) {
            T* place = other.weights.columns.get() + j * kTile + o * kLanes<T>;
            simd::store(place, load<T>(place) + weight);
          }
        }
        simd::store(tile + r * kTile + o * kLanes<T>, weight);
      }
      if constexpr (of_distances) {
        T* place = Role::place(own.weights, i * kTile, r);
        simd::store(place, load<T>(place) + row_sum);
      }
    }
  }

  const Sets<T>& sets_;
  const Loss& loss_;
  Buffer<T> mine_, theirs_;
};

template <typename T, typename Loss>
void smooth_backward(
    const Sets<T>& sets, Loss loss, const Job& job, double grad, bool normalize, const Tensor& grad_embeddings,
    const Tensor* grad_reference) {
  loss.prepare(job, grad, sets.symmetric);
  const bool of_distances = BackwardTile<T, Loss>::of_distances;
  Gradient<T> own(sets.anchors, of_distances), second;
  if (grad_reference) {
    second = Gradient<T>(sets.second, of_distances);
  }
  const Gradient<T>& other = sets.symmetric ? own : second;
  const BackwardTile<T, Loss> backward(sets, loss, job);
  Tiles<T> tiles(sets, Loss::measure, false);
  const int64_t depth = sets.anchors.depth;
  sweep(sets, [](int64_t, int64_t) { return true; }, [&](int64_t i, int64_t j, T* scratch) {
    T* tile = const_cast<T*>(tiles.get(i, j, scratch));
    backward.weigh(i, j, tile, own, other);
    const Side<T>&a = sets.anchors, &b = sets.others();
    gemm::add_weighted<T, kTile, false>(
        tile, a.rows_of(i), b.rows_of(j), b.columns_of(j), b.padded, own.block(a, i), a.padded, depth);
    if (sets.symmetric ? i != j : grad_reference != nullptr) {
      gemm::add_weighted<T, kTile, true>(
          tile, b.rows_of(j), a.rows_of(i), a.columns_of(i), a.padded, other.block(b, j), b.padded, depth);
    }
  });
  write_gradient(sets.anchors, own, normalize, grad_embeddings);
  if (grad_reference) {
    write_gradient(sets.second, second, normalize, *grad_reference);
  }
}

} // namespace robustdml::pairs
