// The k nearest for k > 1: strips of scores that stay in the L2 cache, and a block a query that picks from its
// row.
//
// A block keeps what comes before its threshold in shared memory; when that is full it sorts, keeps the k best,
// and the last of them is the new threshold. The order (score, lower index) is total: in which order items arrive
// changes nothing.
#pragma once

#include "neighbors_tile.cuh"

namespace robustdml::nearest {

constexpr int kMostItems = 2048;  // in shared memory: k <= 1024 and as many new ones

// strip[i·width + j]: the score of query first_query_tile·kSide + i and item first_item_tile·kSide + j, −∞ for
// none. Blocks: tiles of items × tiles of queries.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocksOf<T>) write_scores(
    const Rows<T> queries, int64_t first_query_tile, const Rows<T> items, int64_t first_item_tile,
    bool exclude_self, int64_t width, T* strip) {
  __shared__ Stage<T> stage;
  constexpr int piece = kVector<T>;
  const int x = threadIdx.x % kEdge, y = threadIdx.x / kEdge;
  const int64_t query_tile = first_query_tile + blockIdx.y, item_tile = first_item_tile + blockIdx.x;
  T sums[kOwn][kOwn];
  products(sums, queries.tile(query_tile), items.tile(item_tile), items.depth, stage);
  scores_of(sums, queries, query_tile, items, item_tile, exclude_self);
#pragma unroll
  for (int r = 0; r < kOwn; ++r) {
    T* row = strip + (static_cast<int64_t>(blockIdx.y) * kSide + own_place<T>(y, r)) * width +
             static_cast<int64_t>(blockIdx.x) * kSide;
#pragma unroll
    for (int c = 0; c < kOwn; c += piece) {
      Vector<T, piece> out;
#pragma unroll
      for (int i = 0; i < piece; ++i) {
        out.set(i, sums[r][c + i]);
      }
      store(row + own_place<T>(x, c), out);
    }
  }
}

template <typename T>
struct Kept {
  T scores[kMostItems];
  int32_t indices[kMostItems];
  int size;

  // The first `count` in order. All threads of the block call it, and have passed a barrier since the last change.
  __device__ void sort(int count) {
    int length = 2;
    while (length < count) {
      length *= 2;
    }
    for (int i = count + threadIdx.x; i < length; i += kThreads) {
      scores[i] = -std::numeric_limits<T>::infinity();
      indices[i] = std::numeric_limits<int32_t>::max();
    }
    __syncthreads();
    for (int run = 2; run <= length; run *= 2) {
      for (int stride = run / 2; stride > 0; stride /= 2) {
        for (int pair = threadIdx.x; pair < length / 2; pair += kThreads) {
          const int a = pair / stride * (2 * stride) + pair % stride, b = a + stride;
          const bool forward = (a & run) == 0;
          const T score_a = scores[a], score_b = scores[b];
          const int32_t index_a = indices[a], index_b = indices[b];
          if (before(score_b, index_b, score_a, index_a) == forward) {
            scores[a] = score_b;
            scores[b] = score_a;
            indices[a] = index_b;
            indices[b] = index_a;
          }
        }
        __syncthreads();
      }
    }
  }
};

// Adds `columns` scores of each row of a strip, of the items from first_item on, to the query's list [k] in order,
// where score −∞ and index −1 fill what is empty. `first`: there is no list yet. `last`: scores become distances.
template <typename T>
__global__ void __launch_bounds__(kThreads) select_best(
    const T* strip, int64_t width, int64_t columns, int64_t first_query, int64_t first_item, int k, bool first,
    bool last, Measure measure, const T* scale, T* list_scores, int64_t* list_indices) {
  __shared__ Kept<T> kept;
  constexpr int at_once = 4;  // loads under way, of each thread
  const T* row = strip + blockIdx.x * width;
  list_scores += (first_query + blockIdx.x) * k;
  list_indices += (first_query + blockIdx.x) * k;
  if (threadIdx.x == 0) {
    kept.size = 0;
  }
  __syncthreads();
  int size = 0;  // kept.size, as all threads know it
  if (!first) {
    for (int begin = 0; begin < k; begin += kThreads) {
      const int i = begin + threadIdx.x;
      const bool there = i < k && list_indices[i] >= 0;
      if (there) {
        kept.scores[i] = list_scores[i];
        kept.indices[i] = static_cast<int32_t>(list_indices[i]);
      }
      size += __syncthreads_count(there);
    }
    if (threadIdx.x == 0) {
      kept.size = size;
    }
    __syncthreads();
  }
  T threshold = -std::numeric_limits<T>::infinity();
  int32_t threshold_index = -1;
  auto compress = [&] {
    kept.sort(size);
    size = min(size, k);
    if (threadIdx.x == 0) {
      kept.size = size;
    }
    if (size == k) {
      threshold = kept.scores[k - 1];
      threshold_index = kept.indices[k - 1];
    }
    __syncthreads();
  };
  if (size == k) {
    threshold = kept.scores[k - 1];
    threshold_index = kept.indices[k - 1];
  }
  for (int64_t begin = 0; begin < columns; begin += at_once * kThreads) {
    T scores[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int64_t column = begin + i * kThreads + threadIdx.x;
      scores[i] = column < columns ? row[column] : -std::numeric_limits<T>::infinity();
    }
#pragma unroll
    for (int i = 0; i < at_once; ++i) {
      const int32_t item = static_cast<int32_t>(first_item + begin + i * kThreads + threadIdx.x);
      const bool found = before(scores[i], item, threshold, threshold_index);
      if (found) {
        const int place = atomicAdd(&kept.size, 1);
        kept.scores[place] = scores[i];
        kept.indices[place] = item;
      }
      size += __syncthreads_count(found);
      if (size > kMostItems - kThreads) {
        compress();
      }
    }
  }
  compress();
  for (int i = threadIdx.x; i < k; i += kThreads) {
    const T score = i < size ? kept.scores[i] : -std::numeric_limits<T>::infinity();
    list_scores[i] = last ? distance(score, measure, scale != nullptr ? *scale : T(1)) : score;
    list_indices[i] = i < size ? kept.indices[i] : -1;
  }
}

}  // namespace robustdml::nearest
