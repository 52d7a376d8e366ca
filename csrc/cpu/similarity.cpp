// Scores of all pairs under the learned similarity: Σ_h w_h · dropout(leaky(P_ch + E_bh)), with a block of pairs' sums
// and mask words in registers while the hidden units stream past. No tensor over pairs and units.
#include "similarity.h"

namespace robustdml {

namespace {

using namespace similarity;

// Rows of one task: enough that turning its panel costs little.
constexpr int64_t kTaskRows = 128;

// out[r·kPanel + l] = Σ_h w_h · dropout(leaky(row r + lane l)) for one register block. `panel`: [H][kPanel].
// row_draws: [kRows][words][draws], lane_draws: [words][draws][kPanel].
template <typename T, bool dropped>
__attribute__((noinline)) void score_block(
    const Problem<T>& p, const T* const (&rows)[kRows], const T* panel, const uint32_t* row_draws,
    const uint32_t* lane_draws, T* out) {
  using V = simd::Vector<T>;
  using M = simd::Mask<T>;
  constexpr int lanes = kLanes<T>;
  const V slope = simd::splat(p.slope);
  const int64_t words = p.words(), draws = p.dropout.draws;
  V totals[kRows][kVectors] = {};
  for (int64_t word = 0; word < words; ++word) {
    simd::Vector<word_t<T>> kept[kRows][kVectors]; // unsigned: its doublings overflow
    if constexpr (dropped) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          kept[r][v] = mask_words<T>(
              p.dropout, row_draws + (r * words + word) * draws, 1, lane_draws + word * draws * kPanel<T> + v * lanes,
              kPanel<T>);
        }
      }
    }
    // A sum of its own for each word: long sums in one chain lose digits.
    V sums[kRows][kVectors] = {};
    const int64_t first = word * kUnits, units = p.units(word);
    const T* lane = panel + first * kPanel<T>;
    for (int64_t h = 0; h < units; ++h, lane += kPanel<T>) {
      V right[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        right[v] = simd::load<T>(lane + v * lanes);
      }
      const T weight = p.weight[first + h];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const T left = rows[r][first + h];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const V x = right[v] + left;
          const V active = simd::maximum(x * slope, x);
          const V sum = sums[r][v] + weight * active;
          if constexpr (dropped) {
            sums[r][v] = simd::bits<M>(kept[r][v]) < 0 ? sum : sums[r][v];
            kept[r][v] += kept[r][v];
          } else {
            sums[r][v] = sum;
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        totals[r][v] += sums[r][v];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      simd::store(out + r * kPanel<T> + v * lanes, totals[r][v] * T(p.dropout.scale));
    }
  }
}

template <typename T, bool dropped>
void score_pairs(const Problem<T>& p, T bias, T* scores) {
  const int64_t words = p.words(), draws = p.dropout.draws, rows = p.rows.count;
  const int64_t padded_rows = round_up(rows, kRows), panels = round_up(p.lanes.count, kPanel<T>) / kPanel<T>;
  // Draws of the rows' side, [rows][words][draws]: every panel needs them.
  Buffer<uint32_t> row_draws(padded_rows * words * draws);
  if constexpr (dropped) {
    row_draws.fill(0);
    parallel_tasks(words, padded_rows * 100, [&](int64_t word) {
      Buffer<uint32_t> drawn(rows * draws);
      draw_rows(p.dropout, p.seed, p.rows.side, static_cast<uint32_t>(word), 0, rows, drawn.get(), rows);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < draws; ++i) {
          row_draws[(r * words + word) * draws + i] = drawn[i * rows + r];
        }
      }
    });
  }
  const int64_t chunks = (rows + kTaskRows - 1) / kTaskRows;
  parallel_tasks(panels * chunks, std::min(kTaskRows, rows) * kPanel<T> * p.hidden, [&](int64_t task) {
    const int64_t lane = task / chunks * kPanel<T>, first = task % chunks * kTaskRows;
    const int64_t lanes = std::min(kPanel<T>, p.lanes.count - lane);
    Buffer<T> panel(p.hidden * kPanel<T>);
    transpose_items(p.lanes, p.hidden, lane, kPanel<T>, 0, p.hidden, panel.get());
    Buffer<uint32_t> lane_draws(words * draws * kPanel<T>);
    for (int64_t word = 0; dropped && word < words; ++word) {
      uint32_t* to = lane_draws.get() + word * draws * kPanel<T>;
      draw_rows(p.dropout, p.seed, p.lanes.side, static_cast<uint32_t>(word), lane, kPanel<T>, to, kPanel<T>);
    }
    alignas(64) T block[kRows * kPanel<T>];
    for (int64_t row = first; row < std::min(rows, first + kTaskRows); row += kRows) {
      const T* from[kRows];
      for (int r = 0; r < kRows; ++r) {
        from[r] = p.rows.values + std::min(row + r, rows - 1) * p.hidden; // past the last row: some row
      }
      score_block<T, dropped>(
          p, from, panel.get(), row_draws.get() + row * words * draws, lane_draws.get(), block);
      for (int64_t r = 0; r < std::min<int64_t>(kRows, rows - row); ++r) {
        for (int64_t l = 0; l < lanes; ++l) {
          scores[(row + r) * p.row_stride + (lane + l) * p.lane_stride] = block[r * kPanel<T> + l] + bias;
        }
      }
    }
  });
}

Tensor scores(
    Tensor embeddings, Tensor prototypes, Tensor weight, Tensor bias, std::optional<Tensor> seed, double slope,
    int64_t dropped) {
  check("similarity", embeddings, prototypes, weight, seed, dropped);
  STD_TORCH_CHECK(
      bias.numel() == 1 && bias.scalar_type() == weight.scalar_type(),
      "similarity: expected one bias of the weight's dtype");
  const Tensor e = widened(embeddings), c = widened(prototypes), w = as_contiguous(weight);
  Tensor out = new_empty_like_type(e, {e.size(0), c.size(0)}, e.scalar_type());
  dispatch_wide(e.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto p = problem<T>(e, c, w, seed, slope, dropped);
    dispatch_bool(dropped > 0, [&](auto is_dropped) {
      score_pairs<T, is_dropped.value>(p, *data<T>(bias), mutable_data<T>(out));
    });
  });
  return out;
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("similarity", TORCH_BOX(&robustdml::scores));
}
