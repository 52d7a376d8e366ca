// The two sets of rows that pairs are made of, sorted by label and packed for products of tiles; and the order in which
// tiles are visited so that none of the rows is in two of them at once.
#pragma once

#include "../common/parallel.h"
#include "../common/tensor.h"
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace robustdml::pairs {

using gemm::Buffer;
using gemm::kColumns;
using gemm::kRows;
using gemm::kTile;
using simd::integer_t;
using simd::kLanes;
using simd::load;
using simd::splat;
using simd::Vector;

// Stands for the logarithm of an empty sum: finite, so that differences of two of them are numbers.
template <typename T>
constexpr T kNothing = T(-1e30);

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

// Anchors and what they are compared with. `others` is `anchors` where a set is compared with itself.
template <typename T>
struct Sets {
  Side<T> anchors, second;
  bool symmetric = true;

  const Side<T>& others() const {
    return symmetric ? anchors : second;
  }
  // May block I of the anchors and block J of the others have a pair of one class?
  bool overlap(int64_t i, int64_t j) const {
    const Side<T>&a = anchors, &b = others();
    const int64_t a_last = i * kTile + a.rows_of(i) - 1, b_last = j * kTile + b.rows_of(j) - 1;
    return a.code[i * kTile] <= b.code[b_last] && b.code[j * kTile] <= a.code[a_last];
  }
  // May it have a pair of two classes?
  bool has_negatives(int64_t i, int64_t j) const {
    const Side<T>&a = anchors, &b = others();
    const int64_t a_last = i * kTile + a.rows_of(i) - 1, b_last = j * kTile + b.rows_of(j) - 1;
    return a.code[i * kTile] != a.code[a_last] || b.code[j * kTile] != b.code[b_last] ||
        a.code[i * kTile] != b.code[j * kTile];
  }
  // Must the labels be looked at, or the end of a set?
  bool masked(int64_t i, int64_t j) const {
    return overlap(i, j) || anchors.rows_of(i) < kTile || others().rows_of(j) < kTile;
  }
  // Similarities of a tile, [kTile, kTile].
  void products(int64_t i, int64_t j, T* tile) const {
    gemm::inner_products<T>(
        anchors.left_of(i), anchors.rows_of(i), others().right_of(j), others().rows_of(j), anchors.depth, tile, kTile);
  }
};

template <typename T>
Sets<T> make_sets(
    const Tensor& embeddings, const Tensor& labels, const Tensor* reference, const Tensor* reference_labels,
    int64_t self_offset, bool normalize) {
  Sets<T> sets;
  const int64_t *a_labels = data<int64_t>(labels), *b_labels = reference ? data<int64_t>(*reference_labels) : nullptr;
  Side<T>&a = sets.anchors, &b = sets.second;
  arrange(a, embeddings.size(0), embeddings.size(1), a_labels);
  sets.symmetric = reference == nullptr;
  if (reference) {
    arrange(b, reference->size(0), reference->size(1), b_labels);
  }
  number_labels(a, a_labels, reference ? &b : nullptr, b_labels);
  for (int64_t i = 0; reference && self_offset >= 0 && i < a.count; ++i) {
    STD_TORCH_CHECK(
        a_labels[i] == b_labels[self_offset + i], "pair_loss: anchor ", i, " has label ", a_labels[i],
        ", but its own row of the reference, ", self_offset + i, ", has ", b_labels[self_offset + i]);
  }
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t row = a.order[i];
    // −2: no row of the reference has it.
    a.id[i] = static_cast<integer_t<T>>(sets.symmetric ? row : self_offset >= 0 ? self_offset + row : -2);
  }
  for (int64_t j = 0; j < b.count; ++j) {
    b.id[j] = static_cast<integer_t<T>>(b.order[j]);
  }
  pack(a, embeddings, normalize);
  if (reference) {
    pack(b, *reference, normalize);
  }
  return sets;
}

// Visits tiles (I, J), for a set with itself those with I ≤ J, in rounds: within a round no block is in two tiles, so
// its tiles run in parallel, and every row sees its tiles in an order that the sizes alone decide.
// body(I, J, scratch): scratch is a tile of its thread's own.
template <typename T, typename Wanted, typename Body>
void sweep(const Sets<T>& sets, const Wanted& wanted, const Body& body) {
  const int64_t rows = sets.anchors.blocks, columns = sets.others().blocks;
  if (rows == 0 || columns == 0) {
    return;
  }
  const int64_t work = kTile * kTile * (sets.anchors.depth / 8 + 8);
  std::vector<std::pair<int64_t, int64_t>> tiles;
  auto run = [&] {
    if (tiles.empty()) {
      return;
    }
    auto some = [&](int64_t begin, int64_t end) {
      Buffer<T> scratch(kTile * kTile);
      for (int64_t t = begin; t < end; ++t) {
        body(tiles[t].first, tiles[t].second, scratch.get());
      }
    };
    const int64_t count = static_cast<int64_t>(tiles.size()), least = grain(work);
    if (count <= least) {
      some(0, count);
    } else {
      torch::stable::parallel_for(0, count, least, some);
    }
    tiles.clear();
  };
  auto add = [&](int64_t i, int64_t j) {
    if (wanted(i, j)) {
      tiles.emplace_back(i, j);
    }
  };
  if (!sets.symmetric) {
    const int64_t longer = std::max(rows, columns), shorter = std::min(rows, columns);
    for (int64_t round = 0; round < longer; ++round) {
      for (int64_t k = 0; k < shorter; ++k) {
        const int64_t shifted = (k + round) % longer;
        rows <= columns ? add(k, shifted) : add(shifted, k);
      }
      run();
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    add(i, i);
  }
  run();
  // A round-robin tournament: the last block stays, the others go around.
  const int64_t players = rows + rows % 2, ring = players - 1;
  for (int64_t round = 0; round < ring; ++round) {
    for (int64_t k = 0; k < players / 2; ++k) {
      const int64_t i = k == 0 ? ring : (round + k) % ring, j = (round - k + ring) % ring;
      if (std::max(i, j) < rows) {
        add(std::min(i, j), std::max(i, j));
      }
    }
    run();
  }
}

} // namespace robustdml::pairs
