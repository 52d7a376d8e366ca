// A strip of the table of pairs: some anchors by all columns, as it lies in the L2 cache between the product that makes
// it and the kernels that use it.
#pragma once

#include "../common/cuda.h"
#include "../common/pair_loss.h"

namespace robustdml::pair {

using namespace cuda;

constexpr int kThreads = 256;
constexpr int kNoColumn = -1;

template <typename T>
struct Strip {
  T* values;             // [rows, stride], stride whole vectors; similarities or distances, later weights
  int64_t stride, first; // first: the anchor of its first row
  int rows, columns;
  const int64_t* row_labels;    // of all anchors
  const int64_t* column_labels; // up to whole vectors
  int64_t own;                  // anchor i is column own + i; far below 0 where it is none

  __device__ T* row(int r) const {
    return values + static_cast<int64_t>(r) * stride;
  }
  __device__ int own_column(int r) const {
    const int64_t column = own + first + r;
    return column >= 0 && column < columns ? static_cast<int>(column) : kNoColumn;
  }
};

// Where kernels leave what they found out about anchors.
struct Results {
  double* statistics; // [4, stride]: anchors, then references, then totals; kept for the backward pass
  int64_t stride;
  double* partial; // [4, anchors]: two sums of terms, each followed by how many terms it is over
  int64_t anchors;

  __device__ void add(int64_t anchor, double sum, double count, double other_sum = 0, double other_count = 0) const {
    partial[anchor] = sum;
    partial[anchors + anchor] = count;
    partial[2 * anchors + anchor] = other_sum;
    partial[3 * anchors + anchor] = other_count;
  }
  __device__ double& statistic(int which, int64_t of) const {
    return statistics[which * stride + of];
  }
};

// Four statistics of an anchor, read by one access.
template <typename T>
using Statistics = Vector<T, 4>;

// Row numbers among statistics; not every one of them is a float, but every one is as many bits.
template <typename T>
ROBUSTDML_HOST_DEVICE T from_index(int index) {
  if constexpr (std::is_same_v<T, float>) {
    float bits;
    memcpy(&bits, &index, sizeof(bits));
    return bits;
  } else {
    return static_cast<T>(index);
  }
}

template <typename T>
ROBUSTDML_HOST_DEVICE int to_index(T value) {
  if constexpr (std::is_same_v<T, float>) {
    int index;
    memcpy(&index, &value, sizeof(index));
    return index;
  } else {
    return static_cast<int>(value);
  }
}

// ------------------------------------------------------------------------------------------- reductions

// Combines values over a one-dimensional block of whole warps; all threads get the results, the same at every run.
template <int count, typename T, typename Combine>
__device__ __forceinline__ void over_block(T (&values)[count], T nothing, const Combine& combine) {
  __shared__ T of_warps[count][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  auto over_warp = [&](T value) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
    }
    return value;
  };
  __syncthreads(); // the last results have been read
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const T value = over_warp(values[i]);
    if (lane == 0) {
      of_warps[i][warp] = value;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = over_warp(lane < warps ? of_warps[i][lane] : nothing);
  }
}

template <int count, typename T>
__device__ __forceinline__ void sum_over_block(T (&values)[count]) {
  over_block(values, T(0), [](T a, T b) { return a + b; });
}

// ------------------------------------------------------------------------------------------ walks of a row

// The anchors of a block: several, so that labels and statistics of a column are read once for all of them.
template <int rows, typename T>
struct Anchors {
  static constexpr int width = kVector<T>;
  const Strip<T>& strip;
  int begin;
  int row[rows], own[rows]; // past the end of the strip: the last row again, whose results nobody writes
  int64_t label[rows];

  __device__ explicit Anchors(const Strip<T>& strip) : strip(strip), begin(static_cast<int>(blockIdx.x) * rows) {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      row[r] = begin + r < strip.rows ? begin + r : strip.rows - 1;
      own[r] = strip.own_column(row[r]);
      label[r] = strip.row_labels[strip.first + row[r]];
    }
  }

  __device__ static void labels_of(const Strip<T>& strip, int column, int64_t (&labels)[width]) {
#pragma unroll
    for (int j = 0; j < width; j += 2) {
      const auto two = load<2>(strip.column_labels + column + j);
      labels[j] = two.values[0];
      labels[j + 1] = two.values[1];
    }
  }

  // Calls body(r, column, value, positive?, negative?) for all columns of all rows; neither for an anchor itself.
  template <typename Body>
  __device__ __forceinline__ void each(const Body& body) const {
    for (int column = threadIdx.x * width; column < strip.columns; column += blockDim.x * width) {
      Vector<T, width> values[rows];
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        values[r] = load<width>(strip.row(row[r]) + column);
      }
      int64_t labels[width];
      labels_of(strip, column, labels);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
#pragma unroll
        for (int j = 0; j < width; ++j) {
          const bool real = column + j < strip.columns && column + j != own[r], same = labels[j] == label[r];
          body(r, column + j, values[r].values[j], real && same, real && !same);
        }
      }
    }
  }

  // Calls body(r, anchor) by one thread for each real row, so that arrays over rows stay in registers.
  template <typename Body>
  __device__ __forceinline__ void each_row(const Body& body) const {
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      if (threadIdx.x == r && begin + r < strip.rows) {
        body(r, strip.first + begin + r);
      }
    }
  }
};

} // namespace robustdml::pair
