// The nearest item of each query (of all items, or of its class), and how many items come before that one.
#pragma once

#include "neighbors_tile.cuh"

namespace robustdml::nearest {

// One (score, index) for each query, and the largest number below the score.
template <typename T>
struct Thresholds {
  T *scores, *below;
  int32_t* indices;
};

// places[members[i]] = i.
__global__ void __launch_bounds__(kThreads) invert(const int64_t* members, int64_t count, int32_t* places) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count && members[i] >= 0 && members[i] < count) {
    places[members[i]] = static_cast<int32_t>(i);
  }
}

// best[part·N + query]: the nearest of a part of the items; index −1 where there is none. With classes, queries
// are in the order query_order and items in the order members, where an item counts if begin <= its place < end;
// `places` is given where self is left out. Blocks: tiles of queries × parts.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksOf<T>) nearest_items(
    const Rows<T> queries, const Rows<T> items, const Classes classes, const int32_t* places, bool exclude_self,
    int64_t tiles_of_part, T* best_scores, int32_t* best_indices) {
  __shared__ Stage<T> stage;
  __shared__ int32_t first[kSide], last[kSide], self[kSide], best_place[kSide];
  __shared__ T best[kSide];  // of each row, of all tiles so far: 16 registers less than every thread's own
  const int x = threadIdx.x % kEdge, y = threadIdx.x / kEdge;
  const int64_t query_tile = blockIdx.x, row = query_tile * kSide + threadIdx.x;
  const bool by_class = classes.members != nullptr;
  int64_t query = row;
  if (threadIdx.x < kSide) {
    const bool there = row < queries.count;
    int64_t begin = 0, end = there ? items.count : 0, own = query;
    if (there && by_class) {
      query = classes.query_order[row];
      query = query >= 0 && query < queries.count ? query : 0;
      begin = max(classes.begin[query], int64_t{0});
      end = min(classes.end[query], items.count);
      own = exclude_self ? places[query] : -1;
    }
    first[threadIdx.x] = static_cast<int32_t>(begin);
    last[threadIdx.x] = static_cast<int32_t>(end);
    self[threadIdx.x] = exclude_self ? static_cast<int32_t>(own) : -1;
    best[threadIdx.x] = -std::numeric_limits<T>::infinity();
    best_place[threadIdx.x] = -1;
  }
  __syncthreads();
  int32_t from = static_cast<int32_t>(items.count), to = 0;
  for (int i = 0; i < kSide; ++i) {
    if (first[i] < last[i]) {
      from = min(from, first[i]);
      to = max(to, last[i]);
    }
  }
  const int64_t part_tile = blockIdx.y * tiles_of_part;
  const int64_t begin_tile = max(int64_t{from / kSide}, part_tile);
  const int64_t end_tile = min(divide_up(to, kSide), part_tile + tiles_of_part);
  for (int64_t tile = begin_tile; tile < end_tile; ++tile) {
    T sums[kOwn][kOwn];
    products(sums, queries.tile(query_tile), items.tile(tile), items.depth, stage);
    scores_of(sums, queries, query_tile, items, tile, false);
#pragma unroll
    for (int r = 0; r < kOwn; ++r) {
      const int i = own_place<T>(y, r);
      T score = -std::numeric_limits<T>::infinity();
      int32_t place = -1;
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        // Items of a class lie in the order of their indices, so places order ties as indices do.
        const int32_t j = static_cast<int32_t>(tile * kSide) + own_place<T>(x, c);
        if (j >= first[i] && j < last[i] && j != self[i] && before(sums[r][c], j, score, place)) {
          score = sums[r][c];
          place = j;
        }
      }
#pragma unroll
      for (int offset = kEdge / 2; offset > 0; offset /= 2) {
        const T other = __shfl_xor_sync(kAllLanes, score, offset);
        const int32_t other_place = __shfl_xor_sync(kAllLanes, place, offset);
        if (before(other, other_place, score, place)) {
          score = other;
          place = other_place;
        }
      }
      if (x == 0 && before(score, place, best[i], best_place[i])) {
        best[i] = score;
        best_place[i] = place;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x < kSide && row < queries.count) {
    const int32_t place = best_place[threadIdx.x];
    best_scores[blockIdx.y * queries.count + query] = best[threadIdx.x];
    best_indices[blockIdx.y * queries.count + query] =
        by_class && place >= 0 ? static_cast<int32_t>(classes.members[place]) : place;
  }
}

template <typename T>
__device__ __forceinline__ void best_of_parts(
    const T* scores, const int32_t* indices, int64_t query, int64_t count, int64_t parts, T& best,
    int32_t& index) {
  best = scores[query];
  index = indices[query];
  for (int64_t part = 1; part < parts; ++part) {
    const T other = scores[part * count + query];
    const int32_t other_index = indices[part * count + query];
    if (before(other, other_index, best, index)) {
      best = other;
      index = other_index;
    }
  }
}

// The end of k = 1.
template <typename T>
__global__ void __launch_bounds__(kThreads) write_nearest(
    const T* scores, const int32_t* indices, int64_t count, int64_t parts, Measure measure, const T* scale,
    T* distances, int64_t* result) {
  const int64_t query = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (query < count) {
    T best;
    int32_t index;
    best_of_parts(scores, indices, query, count, parts, best, index);
    distances[query] = distance(best, measure, scale != nullptr ? *scale : T(1));
    result[query] = index;
  }
}

// What scores are compared with while counting. A query without an item of its class is before everything, and
// done.
template <typename T>
__global__ void __launch_bounds__(kThreads) begin_count(
    const T* scores, const int32_t* indices, int64_t count, const Thresholds<T> nearest, int64_t* counts) {
  const int64_t query = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (query < count) {
    const bool found = indices[query] >= 0;
    const T score = found ? scores[query] : std::numeric_limits<T>::infinity();
    nearest.scores[query] = score;
    nearest.below[query] = found ? nextafter(score, -std::numeric_limits<T>::infinity()) : score;
    nearest.indices[query] = indices[query];
    counts[query] = found ? 0 : kNoneOfTheClass;
  }
}

// Adds one thread's share of a tile to the counts of its own 8 queries, which are the tile's rows or its columns.
// score(i, j): of own query i and own item j; place(j): the item's place in the tile.
template <typename T, typename Score, typename Place>
__device__ __forceinline__ void count_before(
    int (&counts)[kOwn], const Thresholds<T>& nearest, const int64_t (&query)[kOwn], int64_t query_count,
    int64_t first_item, const Score& score, const Place& place) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    counts[i] = 0;
    if (query[i] < query_count) {
      const int64_t index = nearest.indices[query[i]];
      const T threshold = nearest.scores[query[i]];
      // Where all items of the tile are before the threshold's index, an equal score comes before it.
      const T bound = index >= first_item + kSide ? nearest.below[query[i]] : threshold;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        counts[i] += score(i, j) > bound;
      }
      if (index >= first_item && index < first_item + kSide) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          counts[i] += score(i, j) == threshold && first_item + place(j) < index;
        }
      }
    }
  }
}

// Counts of integers come out the same in whatever order they are added.
__device__ __forceinline__ void add_count(int64_t* to, int count) {
  if (count != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(count));
  }
}

// Blocks: tiles of items × tiles of queries. `pairs`: the queries are the items, and a tile above the diagonal is
// counted for its rows and for its columns.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksOf<T>) count_ahead(
    const Rows<T> queries, const Rows<T> items, bool pairs, bool exclude_self, const Thresholds<T> nearest,
    int64_t* counts) {
  const int64_t item_tile = blockIdx.x, query_tile = blockIdx.y;
  if (pairs && item_tile < query_tile) {
    return;
  }
  __shared__ Stage<T> stage;
  __shared__ int of_columns[kSide];
  const int x = threadIdx.x % kEdge, y = threadIdx.x / kEdge;
  if (threadIdx.x < kSide) {
    of_columns[threadIdx.x] = 0;
  }
  T sums[kOwn][kOwn];
  products(sums, queries.tile(query_tile), items.tile(item_tile), items.depth, stage);
  scores_of(sums, queries, query_tile, items, item_tile, exclude_self);
  int64_t query[kOwn];
  int own[kOwn];
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    query[r] = query_tile * kSide + own_place<T>(y, r);
  }
  count_before(
      own, nearest, query, queries.count, item_tile * kSide, [&](int i, int j) { return sums[i][j]; },
      [&](int j) { return own_place<T>(x, j); });
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
#pragma unroll
    for (int offset = kEdge / 2; offset > 0; offset /= 2) {
      own[r] += __shfl_xor_sync(kAllLanes, own[r], offset);
    }
    if (x == 0 && query[r] < queries.count) {
      add_count(counts + query[r], own[r]);
    }
  }
  if (!pairs || item_tile == query_tile) {
    return;  // the whole block
  }
#pragma unroll
  for (int c = 0; c < kOwn; ++c) {
    query[c] = item_tile * kSide + own_place<T>(x, c);
  }
  count_before(
      own, nearest, query, queries.count, query_tile * kSide, [&](int i, int j) { return sums[j][i]; },
      [&](int j) { return own_place<T>(y, j); });
#pragma unroll
  for (int c = 0; c < kOwn; ++c) {
    own[c] += __shfl_xor_sync(kAllLanes, own[c], kEdge);
    if (threadIdx.x % kWarp < kEdge) {
      atomicAdd(&of_columns[own_place<T>(x, c)], own[c]);
    }
  }
  __syncthreads();
  const int64_t column = item_tile * kSide + threadIdx.x;
  if (threadIdx.x < kSide && column < queries.count) {
    add_count(counts + column, of_columns[threadIdx.x]);
  }
}

}  // namespace robustdml::nearest
