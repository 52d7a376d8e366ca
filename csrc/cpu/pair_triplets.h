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
  const int64_t strips = b.count > 0 ? shape.strips() : 0, size = shape.strip_size(), depth = a.depth;
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
