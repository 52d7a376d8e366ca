// The kernels between the matrix products of the proxy losses. They work on a strip: the cosines of all embeddings
// with some neighboring classes, a row an embedding for softmax losses and a row a class for proxy-anchor, so that what
// is summed over lies in a row. A warp takes a run of a row; sums of runs are added in order.
#pragma once

#include "proxy_loss_rows.cuh"

// A label that is no class must not pass for a result, in release builds neither: "device-side assert triggered".
#undef NDEBUG
#include <cassert>

namespace robustdml::proxy {

constexpr int kPerLane = 16;               // cosines of a run in a lane's registers
constexpr int64_t kRun = kWarp * kPerLane; // columns of a run

// Σ exp(x) of a run, as the largest x and Σ exp(x − largest). Nothing: the lowest number, and 0.
template <typename T>
struct Sum {
  T largest, rest;
};

template <typename T>
constexpr T kLowest = std::numeric_limits<T>::lowest();

template <typename T>
struct Strip {
  T* cosines;            // [rows, columns]
  const int64_t* labels; // [B]
  int64_t rows, columns, runs;
  int64_t first;         // class of the strip
  T scale, shift;        // logits of other classes: scale·cosine + shift; proxy-anchor: α, αδ
  Margin<T> margin;      // ArcFace's
  bool widens;

  __device__ int64_t row_of(int64_t warp) const {
    return warp / runs;
  }
  __device__ int64_t begin_of(int64_t warp) const {
    return warp % runs * kRun;
  }
};

// Σ exp(value(i)) over this warp's values where counts(i); the same in all lanes but where it is NaN.
template <typename T, typename Counts, typename Value>
__device__ __forceinline__ Sum<T> sum_of_run(const Counts& counts, const Value& value) {
  T largest = kLowest<T>;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (counts(i)) {
      const T x = value(i);
      largest = x > largest ? x : largest;
    }
  }
  largest = warp_max(largest);
  T rest = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (counts(i)) {
      rest += std::exp(value(i) - largest);
    }
  }
  return {largest, warp_sum(rest)};
}

// Sums of the other classes' logits, a run a warp: others [rows, stride], at `offset`. Softmax: own [B] is each
// embedding's cosine with its own class. Proxy-anchor: pulls [rows, stride] are the sums over a class's own
// embeddings.
template <bool anchor, typename T>
__global__ void __launch_bounds__(kThreads)
    collect(const Strip<T> s, Sum<T>* others, Sum<T>* pulls, T* own, int64_t stride, int64_t offset) {
  const int64_t warp = warp_index(), row = s.row_of(warp), begin = s.begin_of(warp);
  if (row >= s.rows) {
    return; // a whole warp
  }
  const int64_t target = anchor ? s.first + row : s.labels[row] - s.first;
  T cosines[kPerLane];
  unsigned there = 0, owned = 0; // a bit a value
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int64_t column = begin + i * kWarp + threadIdx.x;
    cosines[i] = 0;
    if (column < s.columns) {
      cosines[i] = s.cosines[row * s.columns + column];
      there |= 1u << i;
      owned |= ((anchor ? s.labels[column] : column) == target ? 1u : 0u) << i;
    }
  }
  const Sum<T> sum = sum_of_run<T>(
      [&](int i) { return (there & ~owned) >> i & 1u; }, [&](int i) { return s.scale * cosines[i] + s.shift; });
  if (threadIdx.x == 0) {
    others[row * stride + offset + begin / kRun] = sum;
  }
  if constexpr (anchor) {
    Sum<T> pull{kLowest<T>, 0};
    if (__any_sync(kAllLanes, owned != 0)) {
      // −α(s − δ)
      auto logit = [&](int i) { return s.shift - s.scale * cosines[i]; };
      pull = sum_of_run<T>([&](int i) { return owned >> i & 1u; }, logit);
    }
    if (threadIdx.x == 0) {
      pulls[row * stride + offset + begin / kRun] = pull;
    }
  } else if (owned != 0) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (owned >> i & 1u) {
        own[row] = cosines[i];
      }
    }
  }
}

// log(Σ over runs + start), where start is 0 or 1; all lanes call and all know the result.
template <typename T>
__device__ __forceinline__ double pooled(const Sum<T>* sums, int64_t runs, bool one_more) {
  T largest = one_more ? T(0) : kLowest<T>;
  for (int64_t i = threadIdx.x; i < runs; i += kWarp) {
    largest = sums[i].largest > largest ? sums[i].largest : largest;
  }
  largest = warp_max(largest);
  double rest = 0;
  for (int64_t i = threadIdx.x; i < runs; i += kWarp) {
    rest += static_cast<double>(sums[i].rest) *
        exp(static_cast<double>(sums[i].largest) - static_cast<double>(largest));
  }
  rest = warp_sum(rest);
  const double most = static_cast<double>(largest);
  if (!one_more) {
    return most + log(rest);
  }
  return most == 0 ? log1p(rest) : most + log(rest + exp(-most));
}

// statistics [2, B]: log Σ exp of all logits of an embedding, and its loss; a warp an embedding.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pool_softmax(const Strip<T> s, const Sum<T>* others, const T* own, T* statistics, int64_t batch, int64_t runs) {
  const int64_t row = warp_index();
  if (row >= batch) {
    return; // a whole warp
  }
  const T cosine = s.widens ? widen(s.margin, own[row]).value : own[row];
  const double logit = static_cast<double>(s.scale) * static_cast<double>(cosine);
  const double excess = pooled(others + row * runs, runs, false) - logit;
  const double loss = excess > 0 ? excess + log1p(exp(-excess)) : log1p(exp(excess));
  if (threadIdx.x == 0) {
    statistics[row] = static_cast<T>(logit + loss);
    statistics[batch + row] = static_cast<T>(loss);
  }
}

// statistics [2, C]: log(1 + Σ exp) over positives and over negatives of the strip's classes; a warp a class.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    pool_anchor(const Strip<T> s, const Sum<T>* pushes, const Sum<T>* pulls, T* statistics, int64_t classes) {
  const int64_t row = warp_index();
  if (row >= s.rows) {
    return; // a whole warp
  }
  const double pull = pooled(pulls + row * s.runs, s.runs, true), push = pooled(pushes + row * s.runs, s.runs, true);
  if (threadIdx.x == 0) {
    statistics[s.first + row] = static_cast<T>(pull);
    statistics[classes + s.first + row] = static_cast<T>(push);
  }
}

// present [C] = 1 for classes with an embedding: the threads that meet write the same. It must be 0 before.
__global__ void __launch_bounds__(kThreads)
    mark_present(const int64_t* labels, int32_t* present, int64_t batch, int64_t classes) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < batch) {
    const int64_t label = labels[i];
    assert(label >= 0 && label < classes);
    if (present != nullptr) {
      present[label] = 1;
    }
  }
}

constexpr int kTotalThreads = 1024;

// One block. loss: the mean over embeddings; or Σ pull / |P⁺| + Σ push / |P|. Null where only |P⁺| is asked for.
template <typename T>
__global__ void __launch_bounds__(kTotalThreads) total(
    const T* statistics, const int32_t* present, T* loss, int32_t* present_count, int64_t count, bool anchor) {
  double sums[3] = {};
  for (int64_t i = threadIdx.x; i < count; i += kTotalThreads) {
    if (loss != nullptr) {
      sums[0] += static_cast<double>(statistics[count + i]);
    }
    if (anchor) {
      sums[1] += loss != nullptr ? static_cast<double>(statistics[i]) : 0.0;
      sums[2] += present[i];
    }
  }
  block_sum(sums);
  if (threadIdx.x == 0) {
    if (loss != nullptr) {
      *loss = static_cast<T>(sums[0] / static_cast<double>(count) + (anchor ? sums[1] / sums[2] : 0.0));
    }
    if (present_count != nullptr) {
      *present_count = static_cast<int32_t>(sums[2]);
    }
  }
}

// Turns a strip's cosines into the gradient towards them, in place; a run a warp.
template <bool anchor, typename T>
__global__ void __launch_bounds__(kThreads) differentiate(
    const Strip<T> s, const T* __restrict__ statistics, const T* __restrict__ gradient,
    const int32_t* __restrict__ present_count, int64_t count) {
  const int64_t warp = warp_index(), row = s.row_of(warp), begin = s.begin_of(warp);
  if (row >= s.rows) {
    return; // a whole warp
  }
  const int64_t target = anchor ? s.first + row : s.labels[row] - s.first;
  const T slope = *gradient * s.scale, weight = slope / static_cast<T>(count);
  const int64_t entry = anchor ? s.first + row : row;
  // softmax: the pool and the loss; proxy-anchor: the sum over positives and the one over negatives
  const T first = statistics[entry], second = statistics[count + entry];
  const T shift = anchor ? s.shift - second : -first;
#pragma unroll 4
  for (int i = 0; i < kPerLane; ++i) {
    const int64_t column = begin + i * kWarp + threadIdx.x;
    if (column >= s.columns) {
      break;
    }
    T& place = s.cosines[row * s.columns + column];
    const T cosine = place;
    T value = weight * std::exp(s.scale * cosine + shift);
    if ((anchor ? s.labels[column] : column) == target) {
      if constexpr (anchor) {
        value = -slope / static_cast<T>(*present_count) * std::exp(s.shift - s.scale * cosine - first);
      } else {
        // p − 1 from the loss −log p: exact where p is close to 1.
        value = weight * std::expm1(-second) * (s.widens ? widen(s.margin, cosine).slope : T(1));
      }
    }
    place = value;
  }
}

} // namespace robustdml::proxy
