// One set of the rows that pairs are made of, sorted by label and packed for products of tiles.
#pragma once

#include "../common/parallel.h"
#include "../common/tensor.h"
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace robustdml::pairs {

using gemm::Buffer;
using gemm::kColumns;
using gemm::kRows;
using gemm::kTile;
using simd::integer_t;

// Rows sorted by label, so that pairs of one class lie in tiles near the diagonal, and all others need no look at labels.
template <typename T>
struct Side {
  int64_t count = 0, depth = 0, blocks = 0, padded = 0;
  Buffer<int64_t> order;        // [padded] sorted position → row
  Buffer<integer_t<T>> code;    // [padded] the label's number among all labels; −1 past the end
  Buffer<integer_t<T>> id;      // [padded] equal for a row and itself in the other set
  Buffer<double> inverse;       // [padded] 1 / |x|, 0 for a zero row; 1 where rows are not scaled
  Buffer<T> squares;            // [padded] |x|² of the rows as compared
  Buffer<T> columns;            // the rows as compared, in column panels
  Buffer<T> left, right;        // in row panels of both widths

  int64_t rows_of(int64_t block) const {
    return std::min(kTile, count - block * kTile);
  }
  const T* left_of(int64_t block) const {
    return left.get() + block * kTile * depth;
  }
  const T* right_of(int64_t block) const {
    return right.get() + block * kTile * depth;
  }
  const T* columns_of(int64_t block) const {
    return columns.get() + block * kTile * kColumns<T>;
  }
  T value(int64_t row, int64_t k) const {
    return columns[gemm::column_panel_index<T>(padded, row, k)];
  }
};

inline std::vector<int64_t> sorted_order(const int64_t* labels, int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return labels[a] != labels[b] ? labels[a] < labels[b] : a < b;
  });
  return order;
}

// Codes of the labels of up to two sides: equal labels get equal numbers, in the labels' order.
template <typename T>
void number_labels(Side<T>& a, const int64_t* a_labels, Side<T>* b, const int64_t* b_labels) {
  int64_t i = 0, j = 0;
  const int64_t b_count = b ? b->count : 0;
  for (integer_t<T> code = 0; i < a.count || j < b_count; ++code) {
    const bool from_a = j >= b_count || (i < a.count && a_labels[a.order[i]] <= b_labels[b->order[j]]);
    const int64_t label = from_a ? a_labels[a.order[i]] : b_labels[b->order[j]];
    for (; i < a.count && a_labels[a.order[i]] == label; ++i) {
      a.code[i] = code;
    }
    for (; j < b_count && b_labels[b->order[j]] == label; ++j) {
      b->code[j] = code;
    }
  }
}

// Brings rows [begin, begin + kTile) into all three layouts, scaled to unit length where asked.
template <typename T, typename scalar_t>
void pack_block(Side<T>& side, const scalar_t* rows, int64_t block, bool normalize) {
  const int64_t begin = block * kTile, depth = side.depth, rows_here = side.rows_of(block);
  constexpr int64_t width = kColumns<T>;
  // Zeros as far as whole register blocks reach past the last row.
  const int64_t end = begin + std::min(kTile, gemm::round_up(rows_here, width) + kRows);
  for (int64_t i = begin; i < end; ++i) {
    const bool real = i < side.count;
    const scalar_t* x = real ? rows + side.order[i] * depth : nullptr;
    double scale = 1;
    if (real && normalize) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < depth; ++k) {
        const double value = static_cast<double>(static_cast<T>(x[k]));
        sum += value * value;
      }
      scale = sum > 0 ? 1 / std::sqrt(sum) : (sum == 0 ? 0.0 : sum);
    }
    double square = 0;
    for (int64_t panel = 0; panel * width < depth; ++panel) {
      T* to = side.columns.get() + (panel * side.padded + i) * width;
      const int64_t some = real ? std::min(width, depth - panel * width) : 0;
      if (normalize) {
#pragma omp simd
        for (int64_t k = 0; k < some; ++k) {
          to[k] = static_cast<T>(static_cast<double>(static_cast<T>(x[panel * width + k])) * scale);
        }
      } else {
#pragma omp simd
        for (int64_t k = 0; k < some; ++k) {
          to[k] = static_cast<T>(x[panel * width + k]);
        }
      }
      for (int64_t k = some; k < width; ++k) {
        to[k] = T(0);
      }
#pragma omp simd reduction(+ : square)
      for (int64_t k = 0; k < some; ++k) {
        square += static_cast<double>(to[k]) * static_cast<double>(to[k]);
      }
    }
    side.inverse[i] = scale;
    side.squares[i] = static_cast<T>(square);
  }
  auto transpose = [&](T* out, int panel_rows) {
    for (int64_t first = begin; first < begin + rows_here; first += panel_rows) {
      T* panel = out + first * depth;
      for (int64_t k = 0; k < depth; k += width) {
        const T* from = side.columns.get() + (k / width * side.padded + first) * width;
        const int64_t some = std::min(width, depth - k);
        for (int64_t c = 0; c < some; ++c) {
          for (int r = 0; r < panel_rows; ++r) {
            panel[(k + c) * panel_rows + r] = from[r * width + c];
          }
        }
      }
    }
  };
  transpose(side.left.get(), kRows);
  transpose(side.right.get(), kColumns<T>);
}

template <typename T>
void arrange(Side<T>& side, int64_t count, int64_t depth, const int64_t* labels) {
  side.count = count;
  side.depth = depth;
  side.padded = gemm::round_up(count, kTile);
  side.blocks = side.padded / kTile;
  side.order = Buffer<int64_t>(side.padded);
  side.code = Buffer<integer_t<T>>(side.padded);
  side.id = Buffer<integer_t<T>>(side.padded);
  side.inverse = Buffer<double>(side.padded);
  side.squares = Buffer<T>(side.padded);
  side.columns = Buffer<T>(gemm::column_panels_size<T>(side.padded, depth));
  side.left = Buffer<T>(side.padded * depth);
  side.right = Buffer<T>(side.padded * depth);
  const std::vector<int64_t> order = sorted_order(labels, count);
  std::copy(order.begin(), order.end(), side.order.get());
  side.code.fill(-1);
  side.id.fill(-1);
}

template <typename T>
void pack(Side<T>& side, const Tensor& rows, bool normalize) {
  dispatch_floating(rows.scalar_type(), "pair_loss", [&](auto type) {
    using scalar_t = typename decltype(type)::type;
    if constexpr (std::is_same_v<accumulate_t<scalar_t>, T>) {
      parallel_tasks(side.blocks, kTile * side.depth * 4, [&](int64_t block) {
        pack_block<T, scalar_t>(side, data<scalar_t>(rows), block, normalize);
      });
    }
  });
}

} // namespace robustdml::pairs
