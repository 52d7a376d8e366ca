// The two sets of rows that pairs are made of, the tiles between them, and the order in which tiles are visited so that
// none of the rows is in two of them at once.
#pragma once

#include "pair_side.h"

#include <utility>

namespace robustdml::pairs {

using simd::kLanes;
using simd::load;
using simd::splat;
using simd::Vector;

// Stands for the logarithm of an empty sum: finite, so that differences of two of them are numbers.
template <typename T>
constexpr T kNothing = T(-1e30);

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
