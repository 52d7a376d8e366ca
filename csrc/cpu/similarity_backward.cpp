// Gradients of the learned similarity. With t = g · keep · leaky'(x), all three are sums of t: over c for dE, over b for
// dP, both times w_h; and dw_h = Σ t · x = Σ_b E_bh Σ_c t + Σ_c P_ch Σ_b t needs no pass of its own.
//
// A task owns one mask word's 32 units of everything, so no sum is shared between tasks. Its mask words of a few rows
// against a strip of lanes are made once and stay in L1 for the 32 units.
#include "similarity.h"

namespace robustdml {
namespace {

using namespace similarity;

constexpr int64_t kStrip = 1024;       // lanes whose mask words and gradients for one row block fit in L1
constexpr int64_t kChunk = 32 * kRows; // rows summed in one chain: longer ones lose digits

template <typename T>
inline T sum_of(simd::Vector<T> value) {
  alignas(64) T lanes[kLanes<T>];
  simd::store(lanes, value);
#pragma GCC unroll 4
  for (int half = kLanes<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lanes[i] += lanes[i + half];
    }
  }
  return lanes[0];
}

// For one row block and a strip of `width` lanes: adds Σ_rows t to lane_sums [units][width] and Σ_lanes t to
// row_sums[r·kUnits + h]. rows: [kRows][units] at stride kUnits. lanes: [units][width]. grad:
// [width / lanes][kRows][lanes], kept: likewise.
template <typename T, bool dropped>
__attribute__((noinline)) void add_block(
    const T* rows, const T* lanes, const T* grad, const word_t<T>* kept, T slope, int64_t units, int64_t width,
    T* row_sums, T* lane_sums) {
  using V = simd::Vector<T>;
  using M = simd::Mask<T>;
  constexpr int count = kLanes<T>;
  const V one = simd::splat(T(1)), less = simd::splat(slope);
  for (int64_t h = 0; h < units; ++h) {
    V knee[kRows], sums[kRows] = {};
    for (int r = 0; r < kRows; ++r) {
      knee[r] = simd::splat(-rows[r * kUnits + h]); // P + E > 0 where P > −E, in every rounding
    }
    for (int64_t l = 0; l < width; l += count) {
      const V lane = simd::load<T>(lanes + h * width + l);
      V lane_sum = simd::load<T>(lane_sums + h * width + l);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const V g = simd::load<T>(grad + l * kRows + r * count);
        V factor = lane > knee[r] ? one : less;
        if constexpr (dropped) {
          const M keep = simd::bits<M>(simd::load<word_t<T>>(kept + l * kRows + r * count) << h);
          factor = simd::bits<V>(simd::bits<M>(factor) & keep >> (8 * sizeof(T) - 1));
        }
        sums[r] += factor * g;
        lane_sum += factor * g;
      }
      simd::store(lane_sums + h * width + l, lane_sum);
    }
    for (int r = 0; r < kRows; ++r) {
      row_sums[r * kUnits + h] += sum_of<T>(sums[r]);
    }
  }
}

// grad as add_block reads it, for every strip and row block: zero for rows and lanes that are none.
template <typename T>
void pack_gradient(const Problem<T>& p, const T* grad, T* packed) {
  const int64_t rows = p.rows.count, width = round_up(p.lanes.count, kLanes<T>);
  parallel_tasks((rows + kRows - 1) / kRows, kRows * width, [&](int64_t block) {
    for (int64_t l = 0; l < width; l += kLanes<T>) {
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = block * kRows + r;
        const T* from = grad + row * p.row_stride + l * p.lane_stride;
        T* to = packed + block * kRows * width + l * kRows + r * kLanes<T>;
        const int64_t count = row < rows ? std::min<int64_t>(kLanes<T>, p.lanes.count - l) : 0;
        for (int64_t i = 0; i < count; ++i) {
          to[i] = from[i * p.lane_stride];
        }
        std::fill(to + count, to + kLanes<T>, T(0));
      }
    }
  });
}

// All gradients of the units of one mask word.
template <typename T, bool dropped>
void add_word(const Problem<T>& p, int64_t word, const T* packed, T* of_rows, T* of_lanes, T* of_weight) {
  const int64_t rows = p.rows.count, padded_rows = round_up(rows, kRows), all_lanes = p.lanes.count;
  const int64_t units = p.units(word), first_unit = word * kUnits, padded_lanes = round_up(all_lanes, kLanes<T>);
  const int64_t strip = std::min(kStrip, padded_lanes), draws = p.dropout.draws;
  Buffer<T> row_values(padded_rows * kUnits), row_sums(padded_rows * kUnits);
  row_values.fill(T(0));
  row_sums.fill(T(0));
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(p.rows.values + r * p.hidden + first_unit, units, row_values.get() + r * kUnits);
  }
  Buffer<uint32_t> row_draws(dropped ? padded_rows * draws : 0), lane_draws(dropped ? strip * draws : 0);
  Buffer<word_t<T>> kept(dropped ? kRows * strip : 0);
  if constexpr (dropped) {
    draw_rows(
        p.dropout, p.seed, p.rows.side, static_cast<uint32_t>(word), 0, padded_rows, row_draws.get(), padded_rows);
  }
  Buffer<T> lanes(kUnits * strip), sums(kUnits * strip), totals(kUnits * strip);
  double weight_sums[kUnits] = {};

  for (int64_t lane = 0; lane < padded_lanes; lane += strip) {
    const int64_t width = std::min(strip, padded_lanes - lane), count = std::min(width, all_lanes - lane);
    transpose_items(p.lanes, p.hidden, lane, width, first_unit, units, lanes.get());
    if constexpr (dropped) {
      draw_rows(
          p.dropout, p.seed, p.lanes.side, static_cast<uint32_t>(word), lane, width, lane_draws.get(), width);
    }
    totals.fill(T(0));
    for (int64_t chunk = 0; chunk < rows; chunk += kChunk) {
      sums.fill(T(0));
      for (int64_t row = chunk; row < std::min(rows, chunk + kChunk); row += kRows) {
        for (int64_t l = 0; dropped && l < width; l += kLanes<T>) {
          for (int r = 0; r < kRows; ++r) {
            simd::store(
                kept.get() + l * kRows + r * kLanes<T>,
                mask_words<T>(p.dropout, row_draws.get() + row + r, padded_rows, lane_draws.get() + l, width));
          }
        }
        add_block<T, dropped>(
            row_values.get() + row * kUnits, lanes.get(), packed + row * padded_lanes + lane * kRows, kept.get(),
            p.slope, units, width, row_sums.get() + row * kUnits, sums.get());
      }
      for (int64_t i = 0; i < units * width; ++i) {
        totals[i] += sums[i];
      }
    }
    for (int64_t h = 0; h < units; ++h) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t l = 0; l < count; ++l) {
        sum += double(lanes[h * width + l]) * double(totals[h * width + l]);
      }
      weight_sums[h] += sum;
      const T scale = p.weight[first_unit + h] * T(p.dropout.scale);
      for (int64_t l = 0; l < count; ++l) {
        totals[h * width + l] *= scale;
      }
    }
    transpose(totals.get(), width, units, count, of_lanes + lane * p.hidden + first_unit, p.hidden);
  }
  for (int64_t r = 0; r < rows; ++r) {
    T* to = of_rows + r * p.hidden + first_unit;
    for (int64_t h = 0; h < units; ++h) {
      const T sum = row_sums[r * kUnits + h];
      weight_sums[h] += double(row_values[r * kUnits + h]) * double(sum);
      to[h] = sum * (p.weight[first_unit + h] * T(p.dropout.scale));
    }
  }
  for (int64_t h = 0; h < units; ++h) {
    of_weight[first_unit + h] = static_cast<T>(weight_sums[h] * p.dropout.scale);
  }
}

template <typename T, bool dropped>
void gradients(const Problem<T>& p, const T* grad, T* of_rows, T* of_lanes, T* of_weight) {
  Buffer<T> packed(round_up(p.rows.count, kRows) * round_up(p.lanes.count, kLanes<T>));
  pack_gradient(p, grad, packed.get());
  parallel_tasks(p.words(), p.rows.count * p.lanes.count * kUnits, [&](int64_t word) {
    add_word<T, dropped>(p, word, packed.get(), of_rows, of_lanes, of_weight);
  });
}

std::tuple<Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor embeddings, Tensor prototypes, Tensor weight, std::optional<Tensor> seed, double slope,
    int64_t dropped) {
  check("similarity_backward", embeddings, prototypes, weight, seed, dropped);
  STD_TORCH_CHECK(
      grad.dim() == 2 && grad.size(0) == embeddings.size(0) && grad.size(1) == prototypes.size(0) &&
          grad.scalar_type() == weight.scalar_type(),
      "similarity_backward: expected grad [B, C] of the weight's dtype");
  const Tensor g = as_contiguous(grad), e = widened(embeddings), c = widened(prototypes), w = as_contiguous(weight);
  Tensor grad_e = torch::stable::empty_like(e), grad_c = torch::stable::empty_like(c);
  Tensor grad_w = torch::stable::empty_like(w);
  dispatch_wide(e.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto p = problem<T>(e, c, w, seed, slope, dropped);
    const bool swap = p.rows.side == Side::prototypes;
    T* of_rows = mutable_data<T>(swap ? grad_c : grad_e);
    T* of_lanes = mutable_data<T>(swap ? grad_e : grad_c);
    dispatch_bool(dropped > 0, [&](auto is_dropped) {
      gradients<T, is_dropped.value>(p, data<T>(g), of_rows, of_lanes, mutable_data<T>(grad_w));
    });
  });
  return {narrowed(grad_e, embeddings.scalar_type()), narrowed(grad_c, prototypes.scalar_type()), grad_w};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("similarity_backward", TORCH_BOX(&robustdml::backward));
}
