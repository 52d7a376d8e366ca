// Rows made ready for products, and the product of two tiles of them in registers.
//
// Why not the vendor's product: an element here is one chain of fused multiply-adds over the components in order,
// whatever tile it is in. So (x, y) and (y, x) have the same score, equal rows tie exactly, and no setting of the
// caller (TF32) has a say in who is whose neighbor. And scores are looked at in registers: counting needs no score
// in memory at all.
#pragma once

#include "../common/cuda.h"
#include "../common/neighbors.h"

namespace robustdml::nearest {

using namespace cuda;

constexpr int kSide = 128;     // rows and columns of a tile
constexpr int kThreads = 256;  // 16 × 16, each with 8 × 8 elements
constexpr int kEdge = 16, kOwn = 8;
constexpr int kStep = 8;  // components at a time

// Blocks of a multiprocessor: what registers allow, 64 of which hold float32 sums and 128 float64 ones.
template <typename T>
constexpr int kBlocksOf = sizeof(T) == 8 ? 1 : 2;

inline int64_t tiles_of(int64_t rows) {
  return divide_up(rows, int64_t{kSide});
}

// Tiles of rows, one component after the other: [tiles][depth][kSide]. Rows and components past the last one are
// zeros.
template <typename T>
struct Rows {
  const T* panels;
  const T* half;  // |row|²/2, zeros for cosine distances
  int64_t count, depth;

  __device__ const T* tile(int64_t i) const {
    return panels + i * depth * kSide;
  }
};

// The largest |x| of a row, for all lanes; NaN where not all of it is finite.
template <typename T, typename scalar_t>
__device__ __forceinline__ T largest_of_row(const scalar_t* row, int64_t depth) {
  T largest = 0, check = 0;
  for (int64_t d = threadIdx.x; d < depth; d += kWarp) {
    const T value = static_cast<T>(row[d]), size = value < T(0) ? -value : value;
    largest = size > largest ? size : largest;
    check += value - value;
  }
  largest = warp_max(largest);
  return warp_sum(check) == T(0) ? largest : std::numeric_limits<T>::quiet_NaN();
}

constexpr int kRowsOfBlock = 8;       // a warp each
constexpr int64_t kMostMaxima = 512;  // blocks that look for the largest entry

// largest[block]: of the finite rows that the block's warps saw.
template <typename T, typename scalar_t>
__global__ void __launch_bounds__(kWarp* kRowsOfBlock)
    largest_entries(const scalar_t* rows, int64_t count, int64_t depth, T* largest) {
  __shared__ T of_warps[kRowsOfBlock];
  T mine = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.y; i < count;
       i += static_cast<int64_t>(gridDim.x) * kRowsOfBlock) {
    const T of_row = largest_of_row<T>(rows + i * depth, depth);
    mine = of_row > mine ? of_row : mine;  // a NaN is greater than nothing
  }
  if (threadIdx.x == 0) {
    of_warps[threadIdx.y] = mine;
  }
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    for (int i = 1; i < kRowsOfBlock; ++i) {
      mine = of_warps[i] > mine ? of_warps[i] : mine;
    }
    largest[blockIdx.x] = mine;
  }
}

// One thread: scale[0] from what the blocks found.
template <typename T>
__global__ void choose_scale(const T* largest, int64_t count, T* scale) {
  T most = 0;
  for (int64_t i = 0; i < count; ++i) {
    most = largest[i] > most ? largest[i] : most;
  }
  *scale = most > T(0) ? scale_to_one(most) : T(1);
}

// Row `order[i]` (or i) of `from`, scaled, as row i of the tiles; a row that is not finite becomes NaN all over:
// no score of it is a number, so it is nobody's neighbor and has none. A warp a row, those past `count` included.
template <typename T, typename scalar_t>
__global__ void __launch_bounds__(kWarp* kRowsOfBlock) prepare_rows(
    const scalar_t* from, const int64_t* order, int64_t count, int64_t depth, int64_t padded_depth, const T* scale,
    T* panels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.y;
  T* to = panels + i / kSide * padded_depth * kSide + i % kSide;
  int64_t source = i < count && order != nullptr ? order[i] : i;
  const bool there = i < count;
  const bool readable = there && source >= 0 && source < count;
  const scalar_t* row = from + (readable ? source : 0) * depth;
  T largest = readable ? largest_of_row<T>(row, depth) : std::numeric_limits<T>::quiet_NaN();
  T factor = scale != nullptr ? *scale : T(1);
  double length = 1;
  if (scale == nullptr && largest > T(0)) {
    factor = scale_to_one(largest);
    double sum = 0;
    for (int64_t d = threadIdx.x; d < depth; d += kWarp) {
      const double value = static_cast<T>(row[d]) * factor;
      sum += value * value;
    }
    length = sqrt(warp_sum(sum));
  }
  for (int64_t d = threadIdx.x; d < padded_depth; d += kWarp) {
    T value = 0;
    if (there && d < depth) {
      value = largest == largest ? static_cast<T>(static_cast<double>(static_cast<T>(row[d]) * factor) / length)
                                 : std::numeric_limits<T>::quiet_NaN();
    }
    to[d * kSide] = value;
  }
}

// |row|²/2 by the chain that products are: equal rows are at distance 0 exactly.
template <typename T>
__global__ void __launch_bounds__(kSide) half_squares(const T* panels, int64_t depth, bool euclidean, T* half) {
  const T* row = panels + static_cast<int64_t>(blockIdx.x) * depth * kSide + threadIdx.x;
  T sum = 0;
  for (int64_t k = 0; euclidean && k < depth; ++k) {
    sum = fma(row[k * kSide], row[k * kSide], sum);
  }
  half[static_cast<int64_t>(blockIdx.x) * kSide + threadIdx.x] = sum / 2;
}

// ------------------------------------------------------------------------------------------------------- products

// A thread's 8 rows and 8 columns of a tile: pieces of 16 bytes, so that a warp reads shared memory without
// conflicts.
template <typename T>
__device__ __forceinline__ int own_place(int thread, int i) {
  constexpr int piece = kVector<T>;
  return i / piece * (kEdge * piece) + thread * piece + i % piece;
}

template <typename T>
struct Stage {
  alignas(16) T left[2][kStep][kSide];
  alignas(16) T right[2][kStep][kSide];
};

// sums[r][c] = ⟨left row own_place(y, r), right row own_place(x, c)⟩. All threads of the block call it.
template <typename T>
__device__ __forceinline__ void products(
    T (&sums)[kOwn][kOwn], const T* left, const T* right, int64_t depth, Stage<T>& stage) {
  constexpr int piece = kVector<T>, own = kStep * kSide / kThreads / piece;
  const int x = threadIdx.x % kEdge, y = threadIdx.x / kEdge;
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      sums[r][c] = 0;
    }
  }
  Vector<T, piece> next_left[own], next_right[own];
  auto fetch = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const int64_t from = k * kSide + (i * kThreads + threadIdx.x) * piece;
      next_left[i] = load<piece>(left + from);
      next_right[i] = load<piece>(right + from);
    }
  };
  auto keep = [&](int buffer) {
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const int place = (i * kThreads + threadIdx.x) * piece;
      store(&stage.left[buffer][0][0] + place, next_left[i]);
      store(&stage.right[buffer][0][0] + place, next_right[i]);
    }
  };
  __syncthreads();  // the stage may still be read for the tile before
  if (depth > 0) {
    fetch(0);
    keep(0);
  }
  __syncthreads();
  int buffer = 0;
  for (int64_t k = 0; k < depth; k += kStep) {
    const bool more = k + kStep < depth;
    if (more) {
      fetch(k + kStep);
    }
#pragma unroll
    for (int step = 0; step < kStep; ++step) {
      Vector<T, piece> a[kOwn / piece], b[kOwn / piece];
#pragma unroll
      for (int i = 0; i < kOwn / piece; ++i) {
        a[i] = load<piece>(&stage.left[buffer][step][(i * kEdge + y) * piece]);
        b[i] = load<piece>(&stage.right[buffer][step][(i * kEdge + x) * piece]);
      }
#pragma unroll
      for (int r = 0; r < kOwn; ++r) {
#pragma unroll
        for (int c = 0; c < kOwn; ++c) {
          sums[r][c] = fma(a[r / piece].values[r % piece], b[c / piece].values[c % piece], sums[r][c]);
        }
      }
    }
    if (more) {
      keep(1 - buffer);
    }
    __syncthreads();
    buffer = 1 - buffer;
  }
}

// Products into scores. −∞ where there is no item or no query, and where a query must not find itself.
template <typename T>
__device__ __forceinline__ void scores_of(
    T (&sums)[kOwn][kOwn], const Rows<T>& queries, int64_t query_tile, const Rows<T>& items, int64_t item_tile,
    bool exclude_self) {
  const int x = threadIdx.x % kEdge, y = threadIdx.x / kEdge;
  const int64_t row = query_tile * kSide, column = item_tile * kSide;
  T half[kOwn];
#pragma unroll
  for (int c = 0; c < kOwn; ++c) {
    half[c] = items.half[column + own_place<T>(x, c)];
  }
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    const T half_row = queries.half[row + own_place<T>(y, r)];
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      sums[r][c] = euclidean_score(sums[r][c], half_row, half[c]);
    }
  }
  if (row + kSide > queries.count || column + kSide > items.count || (exclude_self && row == column)) {
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        const int64_t i = row + own_place<T>(y, r), j = column + own_place<T>(x, c);
        if (i >= queries.count || j >= items.count || (exclude_self && i == j)) {
          sums[r][c] = -std::numeric_limits<T>::infinity();
        }
      }
    }
  }
}

}  // namespace robustdml::nearest
