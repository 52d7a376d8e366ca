// The passes of the triplet losses over all anchors.
#pragma once

#include "pair_gradient.h"
#include "pair_triplet_rows.h"

namespace robustdml::pairs {

// Strips of which the gradient of what anchors are compared with is added up at once.
constexpr int64_t kStripsAtOnce = 8;

template <typename T>
double triplet_forward(const Sets<T>& sets, const Job& job) {
  using Found = typename Triplets<T>::Found;
  const Triplets<T> shape(sets, job);
  std::vector<Found> of_strip(shape.strips());
  const bool hardest = job.kind == "triplet_hardest";
  if (sets.others().count > 0) {
    auto run = [&](int64_t begin, int64_t end) {
      Triplets<T> triplets(sets, job);
      Buffer<T> tiles(triplets.strip_size());
      for (int64_t strip = begin; strip < end; ++strip) {
        triplets.measure(strip, tiles.get());
        for (int64_t r = 0; r < triplets.rows_of(strip); ++r) {
          const Found found = triplets.template row<false>(strip, r, tiles.get(), T(0));
          of_strip[strip].cost += found.cost;
          of_strip[strip].count += found.count;
          of_strip[strip].triplets += found.triplets;
          if (hardest && found.count > 0 && found.near.place >= 0) {
            // All that the backward pass needs: the two places, and the slopes towards their inner products.
            const int64_t i = strip * kStrip + r;
            job.row(0)[i] = static_cast<double>(found.far.place);
            job.row(1)[i] = static_cast<double>(found.near.place);
            job.row(2)[i] = static_cast<double>(triplets.through(T(1), found.far.value));
            job.row(3)[i] = static_cast<double>(triplets.through(T(-1), found.near.value));
          }
        }
      }
    };
    torch::stable::parallel_for(0, shape.strips(), grain(shape.strip_size()), run);
  }
  Found all;
  for (const Found& found : of_strip) {
    all.cost += found.cost;
    all.count += found.count;
    all.triplets += found.triplets;
  }
  const bool costly_only = job.reduction == Reduction::nonzero || job.kind == "triplet_semihard";
  job.total(0) = job.reduction == Reduction::sum ? 1.0 : costly_only ? all.count : all.triplets;
  return all.cost != all.cost ? all.cost : share(all.cost, job.total(0));
}

// Each anchor has one positive and one negative at most: no product is needed.
template <typename T>
void add_hardest(const Sets<T>& sets, const Job& job, T scale, const Gradient<T>& own, const Gradient<T>* other) {
  const Side<T>&a = sets.anchors, &b = sets.others();
  constexpr int64_t width = kColumns<T>;
  auto add = [&](int64_t i, int64_t j, T weight) {
    if (weight == 0) {
      return;
    }
    STD_TORCH_CHECK(j >= 0 && j < b.count, "pair_loss_backward: not the forward pass's own statistics");
    for (int64_t k = 0; k < a.depth; k += width) {
      const T *x = a.columns.get() + (k / width * a.padded + i) * width,
              *y = b.columns.get() + (k / width * b.padded + j) * width;
      T* to_x = own.sums.get() + (k / width * a.padded + i) * width;
      T* to_y = other ? other->sums.get() + (k / width * b.padded + j) * width : nullptr;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        to_x[c] += weight * y[c];
      }
      if (to_y) {
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) {
          to_y[c] += weight * x[c];
        }
      }
    }
    own.weights.columns[i] += weight;
    if (other) {
      other->weights.columns[j] += weight;
    }
  };
  for (int64_t i = 0; i < a.count; ++i) {
    add(i, static_cast<int64_t>(job.row(0)[i]), scale * static_cast<T>(job.row(2)[i]));
    add(i, static_cast<int64_t>(job.row(1)[i]), scale * static_cast<T>(job.row(3)[i]));
  }
}

template <typename T>
void triplet_backward(
    const Sets<T>& sets, const Job& job, double grad, bool normalize, const Tensor& grad_embeddings,
    const Tensor* grad_reference) {
  const Side<T>&a = sets.anchors, &b = sets.others();
  const T scale = static_cast<T>(share(grad, job.total(0)));
  Gradient<T> own(a, true), second;
  if (grad_reference) {
    second = Gradient<T>(sets.second, true);
  }
  const Gradient<T>& other = sets.symmetric ? own : second;
  const Triplets<T> shape(sets, job);
  const int64_t size = shape.strip_size(), depth = a.depth;
  int64_t strips = b.count > 0 ? shape.strips() : 0;
  if (job.kind == "triplet_hardest") {
    add_hardest(sets, job, scale, own, sets.symmetric || grad_reference ? &other : nullptr);
    strips = 0;
  }
  Buffer<T> tiles(std::min(strips, kStripsAtOnce) * size);
  for (int64_t first = 0; first < strips; first += kStripsAtOnce) {
    const int64_t some = std::min(kStripsAtOnce, strips - first);
    // The anchors' own share of the gradient: each strip writes its own rows.
    auto anchors = [&](int64_t begin, int64_t end) {
      Triplets<T> triplets(sets, job);
      for (int64_t s = begin; s < end; ++s) {
        const int64_t strip = first + s, rows = triplets.rows_of(strip);
        T* of_strip = tiles.get() + s * size;
        triplets.measure(strip, of_strip);
        for (int64_t r = 0; r < rows; ++r) {
          triplets.template row<true>(strip, r, of_strip, scale);
        }
        for (int64_t j = 0; j < b.blocks; ++j) {
          const T* tile = of_strip + j * kStrip * kTile;
          gemm::add_weighted<T, kTile, false>(
              tile, rows, b.rows_of(j), b.columns_of(j), b.padded,
              own.sums.get() + strip * kStrip * kColumns<T>, a.padded, depth);
          for (int64_t r = 0; r < rows; ++r) {
            T* sum = RowRole<T>::place(own.weights, strip * kStrip, r);
            for (int64_t c = 0; c < kTile; c += kLanes<T>) {
              simd::store(sum, load<T>(sum) + load<T>(tile + r * kTile + c));
            }
          }
        }
      }
    };
    torch::stable::parallel_for(0, some, grain(size), anchors);
    if (!sets.symmetric && !grad_reference) {
      continue;
    }
    // The share of what they are compared with: each block adds up the strips in order.
    auto compared = [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        for (int64_t s = 0; s < some; ++s) {
          const T* tile = tiles.get() + s * size + j * kStrip * kTile;
          const int64_t rows = shape.rows_of(first + s);
          gemm::add_weighted<T, kTile, true>(
              tile, b.rows_of(j), rows, a.columns.get() + (first + s) * kStrip * kColumns<T>, a.padded,
              other.block(b, j), b.padded, depth);
          T* sum = other.weights.columns.get() + j * kTile;
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < kTile; c += kLanes<T>) {
              simd::store(sum + c, load<T>(sum + c) + load<T>(tile + r * kTile + c));
            }
          }
        }
      }
    };
    torch::stable::parallel_for(0, b.blocks, grain(kStrip * kTile * some * depth), compared);
  }
  write_gradient(a, own, normalize, grad_embeddings);
  if (grad_reference) {
    write_gradient(sets.second, second, normalize, *grad_reference);
  }
}

} // namespace robustdml::pairs
