// The parts that the proxy losses' passes on the CPU are made of: how the work is cut, embeddings packed once a pass,
// and blocks of classes read straight from the proxies.
//
// A block of classes is worked on whole while it is in cache: its cosines to a tile of embeddings, the loss's own pass
// over them, and the products with them. The cosines take the proxies as they lie, kRows rows side by side, and are
// divided by the norms afterwards: packing C·D numbers would take longer than it saves.
#pragma once

#include "../common/proxy_loss.h"
#include "../common/parallel.h"
#include "../common/tensor.h"
#include "gemm.h"

#include <algorithm>

namespace robustdml::proxy {

using gemm::Buffer;
using gemm::kColumns;
using gemm::kRows;
using gemm::round_up;
using simd::kLanes;

constexpr int64_t kClasses = gemm::kTile; // of a block at most
constexpr int64_t kStride = 128;          // leading dimension of a tile [class][embedding]
constexpr int64_t kMostEmbeddings = 120;  // of a tile: whole left panels at every SIMD level
constexpr int64_t kMostGroups = 16;       // of classes: tasks, each with sums of its own
constexpr int64_t kPartialBytes = int64_t{64} << 20;
static_assert(kMostEmbeddings % kRows == 0 && kClasses % (2 * kRows) == 0);
static_assert(round_up(kMostEmbeddings, kColumns<float>) <= kStride);

// How B embeddings and C classes are cut; by shape alone.
struct Plan {
  int64_t embeddings, classes, depth;
  int64_t tile;   // embeddings of a tile
  int64_t tiles;
  int64_t block;  // classes of a block
  int64_t blocks;
  int64_t groups; // of neighboring blocks

  Plan(int64_t embeddings, int64_t classes, int64_t depth) : embeddings(embeddings), classes(classes), depth(depth) {
    tiles = std::max<int64_t>((embeddings + kMostEmbeddings - 1) / kMostEmbeddings, 1);
    tile = std::max<int64_t>(round_up((embeddings + tiles - 1) / tiles, kRows), kRows);
    tiles = (embeddings + tile - 1) / tile;
    // Few classes make smaller blocks, so that there are some for every thread.
    const int64_t share = (classes + kMostGroups - 1) / kMostGroups;
    block = std::clamp<int64_t>(round_up(share, kClasses / 2), kClasses / 2, kClasses);
    blocks = (classes + block - 1) / block;
    groups = std::min(blocks, kMostGroups);
  }

  int64_t begin_of_group(int64_t group) const {
    return std::min(classes, group * blocks / groups * block);
  }
  int64_t rows_of(int64_t tile_index) const {
    return std::min(tile, embeddings - tile_index * tile);
  }
};

template <typename T, typename scalar_t>
double sum_of_squares(const scalar_t* row, int64_t depth) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < depth; ++k) {
    const double value = static_cast<double>(static_cast<T>(row[k]));
    sum += value * value;
  }
  return sum;
}

// Unit rows in column panels: the component k of row i at column_panel_index(panel_rows, i, k), zeros past the depth.
template <typename T, typename scalar_t>
void pack_unit_row(const scalar_t* row, T inverse, int64_t i, int64_t panel_rows, int64_t depth, T* panels) {
  for (int64_t first = 0; first < depth; first += kColumns<T>) {
    T* to = panels + gemm::column_panel_index<T>(panel_rows, i, first);
    const scalar_t* from = row + first;
    if (depth - first >= kColumns<T>) {
#pragma omp simd
      for (int64_t k = 0; k < kColumns<T>; ++k) {
        to[k] = static_cast<T>(from[k]) * inverse;
      }
    } else {
      for (int64_t k = 0; k < kColumns<T>; ++k) {
        to[k] = first + k < depth ? static_cast<T>(from[k]) * inverse : T(0);
      }
    }
  }
}

// The embeddings [begin, begin + count) as unit rows, in the two forms that products read.
template <typename T>
struct Embeddings {
  int64_t count, depth, padded;
  Buffer<T> inverse;        // 1/‖x‖
  Buffer<T> right;          // row panels of every tile: [tile][kStride / kColumns][depth][kColumns]
  Buffer<T> columns;        // column panels of `padded` rows; only where asked for

  template <typename scalar_t>
  Embeddings(const Plan& plan, const scalar_t* rows, int64_t begin, int64_t count, bool with_columns)
      : count(count), depth(plan.depth), padded(round_up(count, kRows)), inverse(count) {
    const int64_t tiles = (count + plan.tile - 1) / plan.tile;
    right = Buffer<T>(tiles * kStride * depth);
    if (with_columns) {
      columns = Buffer<T>(gemm::column_panels_size<T>(padded, depth));
    }
    parallel_tasks(tiles, plan.tile * depth, [&](int64_t t) {
      const int64_t first = t * plan.tile, here = std::min(plan.tile, count - first);
      std::fill_n(tile_at(t), round_up(here, kColumns<T>) * depth, T(0));
      for (int64_t i = 0; i < here; ++i) {
        const scalar_t* row = rows + (begin + first + i) * depth;
        const T share = inverse_norm<T>(sum_of_squares<T>(row, depth));
        inverse[first + i] = share;
        T* to = tile_at(t) + i / kColumns<T> * kColumns<T> * depth + i % kColumns<T>;
        for (int64_t k = 0; k < depth; ++k) {
          to[k * kColumns<T>] = static_cast<T>(row[k]) * share;
        }
        if (with_columns) {
          pack_unit_row(row, share, first + i, padded, depth, columns.get());
        }
      }
    });
  }

  T* tile_at(int64_t t) const {
    return right.get() + t * kStride * depth;
  }
};

// tile[i·kStride + j] = ⟨left row i, right row j⟩ for kRows rows at `stride` of each other and `vectors` vectors of
// a row panel.
template <typename T, int vectors>
inline void inner_block(const T* left, int64_t stride, const T* right, T* tile, int64_t depth) {
  using V = simd::Vector<T>;
  V sums[kRows][vectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    V b[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      b[v] = simd::load<T>(right + v * kLanes<T>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T a = left[i * stride + k];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        sums[i][v] += a * b[v];
      }
    }
    right += kColumns<T>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      simd::store(tile + i * kStride + v * kLanes<T>, sums[i][v]);
    }
  }
}

// Classes [begin, begin + count) in cache: their rows in the type of the products, and the norms.
template <typename T>
class Classes {
 public:
  int64_t begin = 0, count = 0;
  T inverse[kClasses]; // 1/‖w‖, 0 for a zero row
  T factor[kClasses];  // what a product with the row as it lies takes to be a cosine: never 0

  explicit Classes(int64_t depth) : depth_(depth), last_(kRows * depth) {}

  template <typename scalar_t>
  void read(const scalar_t* proxies, int64_t first, int64_t size) {
    begin = first;
    count = size;
    const scalar_t* rows = proxies + begin * depth_;
    for (int64_t i = 0; i < count; ++i) {
      inverse[i] = inverse_norm<T>(sum_of_squares<T>(rows + i * depth_, depth_));
      factor[i] = inverse[i] == 0 ? T(1) : inverse[i];
    }
    if constexpr (std::is_same_v<T, scalar_t>) {
      rows_ = rows;
    } else {
      if (wide_.size() == 0) {
        wide_ = Buffer<T>(kClasses * depth_);
      }
      for (int64_t i = 0; i < count * depth_; ++i) {
        wide_[i] = static_cast<T>(rows[i]);
      }
      rows_ = wide_.get();
    }
    // The last rows need not fill a register block: what lies past them must not be read.
    const int64_t whole = count / kRows * kRows;
    if (whole < count) {
      std::copy_n(rows_ + whole * depth_, (count - whole) * depth_, last_.get());
      std::fill_n(last_.get() + (count - whole) * depth_, (whole + kRows - count) * depth_, T(0));
    }
  }

  const T* row(int64_t i) const {
    return rows_ + i * depth_;
  }

  // tile [round_up(count, kRows)][kStride]: products of the rows as they lie with `columns` unit embeddings.
  void products(const T* right, int64_t columns, T* tile) const {
    for (int64_t j = 0; j < columns; j += kColumns<T>) {
      for (int64_t i = 0; i < count; i += kRows) {
        const T* left = i + kRows <= count ? row(i) : last_.get();
        if (columns - j > kLanes<T>) {
          inner_block<T, gemm::kVectors>(left, depth_, right + j * depth_, tile + i * kStride + j, depth_);
        } else {
          inner_block<T, 1>(left, depth_, right + j * depth_, tile + i * kStride + j, depth_);
        }
      }
    }
  }

 private:
  int64_t depth_;
  const T* rows_ = nullptr;
  Buffer<T> wide_, last_;
};

// (d − u·⟨u, d⟩)/‖x‖: the gradient towards x of what has gradient d towards the unit vector u. Both are rows of
// column panels.
template <typename T, typename scalar_t>
void finish_row(
    const T* unit, int64_t unit_rows, const T* gradient, int64_t gradient_rows, int64_t i, T inverse, int64_t depth,
    scalar_t* out) {
  using V = simd::Vector<T>;
  V sums[gemm::kVectors] = {};
  for (int64_t k = 0; k < depth; k += kColumns<T>) {
    const T* u = unit + gemm::column_panel_index<T>(unit_rows, i, k);
    const T* d = gradient + gemm::column_panel_index<T>(gradient_rows, i, k);
    for (int v = 0; v < gemm::kVectors; ++v) {
      sums[v] += simd::load<T>(u + v * kLanes<T>) * simd::load<T>(d + v * kLanes<T>);
    }
  }
  T along = 0;
  for (int v = 0; v < gemm::kVectors; ++v) {
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      along += sums[v][lane];
    }
  }
  for (int64_t k = 0; k < depth; k += kColumns<T>) {
    const T* u = unit + gemm::column_panel_index<T>(unit_rows, i, k);
    const T* d = gradient + gemm::column_panel_index<T>(gradient_rows, i, k);
    const int64_t width = std::min<int64_t>(kColumns<T>, depth - k);
    if (width == kColumns<T>) {
#pragma omp simd
      for (int64_t j = 0; j < kColumns<T>; ++j) {
        out[k + j] = static_cast<scalar_t>((d[j] - u[j] * along) * inverse);
      }
    } else {
      for (int64_t j = 0; j < width; ++j) {
        out[k + j] = static_cast<scalar_t>((d[j] - u[j] * along) * inverse);
      }
    }
  }
}

} // namespace robustdml::proxy
