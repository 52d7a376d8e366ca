// Before and after the strips: rows as they are compared, their distances, and gradients as they came in.
#pragma once

#include "pair_loss_strip.cuh"

namespace robustdml::pair {

constexpr int kWarps = 4; // rows of a block where a warp takes a row

// One set of rows, the anchors or what they are compared with.
template <typename T>
struct Rows {
  T* values;        // [count, stride], at unit length where asked
  T* squares;       // [count], |x|² of these
  double* norms;    // [count], |x| of the rows that came in, 1 where rows are not scaled
  int64_t* labels;  // [count], up to whole vectors
  int64_t count, depth, stride;
};

// Brings rows to the form they are compared in. In float64, where squares of norms from 1e-20 to 1e20 still fit.
// statistics: null in the forward pass, which starts from zeros; else what it saved, for kernels to read.
template <typename scalar_t, typename T>
__global__ void __launch_bounds__(kWarps * kWarp) prepare_rows(
    const scalar_t* __restrict__ values, const int64_t* __restrict__ labels, const Rows<T> rows, bool normalize,
    double* __restrict__ saved, int64_t saved_stride, Statistics<T>* __restrict__ statistics, bool indices) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows.count) {
    return; // a whole warp: a row of the block is one
  }
  const scalar_t* from = values + row * rows.depth;
  T* to = rows.values + row * rows.stride;
  double norm = 1;
  if (normalize) {
    double sum = 0;
    for (int64_t k = threadIdx.x; k < rows.depth; k += kWarp) {
      const double value = static_cast<double>(static_cast<T>(from[k]));
      sum += value * value;
    }
    norm = sqrt(warp_sum(sum));
  }
  double square = 0;
  for (int64_t k = threadIdx.x; k < rows.depth; k += kWarp) {
    const double wide = static_cast<double>(static_cast<T>(from[k]));
    const T value = static_cast<T>(norm == 0 ? 0.0 : wide / norm);
    to[k] = value;
    square += static_cast<double>(value) * static_cast<double>(value);
  }
  square = warp_sum(square);
  if (threadIdx.x == 0) {
    rows.squares[row] = static_cast<T>(square);
    rows.norms[row] = norm;
    rows.labels[row] = labels[row];
  }
  if (threadIdx.x < 4) {
    double& value = saved[threadIdx.x * saved_stride + row];
    if (statistics == nullptr) {
      value = 0;
    } else {
      reinterpret_cast<T*>(statistics + row)[threadIdx.x] =
          indices ? from_index<T>(static_cast<int>(value)) : static_cast<T>(value);
    }
  }
}

// Similarities → distances, or their squares. A block a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    to_distances(const Strip<T> strip, const Rows<T> anchors, const Rows<T> others, bool squared) {
  const int r = static_cast<int>(blockIdx.x), own = strip.own_column(r);
  const int64_t anchor = strip.first + r;
  const T square = anchors.squares[anchor];
  T* row = strip.row(r);
  for (int column = threadIdx.x; column < strip.columns; column += blockDim.x) {
    const T sum = square + others.squares[column];
    T distance = sum - 2 * row[column];
    if (!(distance >= static_cast<T>(kNear) * sum) && column != own) {
      const T *x = anchors.values + anchor * anchors.stride, *y = others.values + column * others.stride;
      distance = 0;
      for (int64_t k = 0; k < anchors.depth; ++k) {
        const T difference = x[k] - y[k];
        distance += difference * difference;
      }
    }
    row[column] = squared ? distance : std::sqrt(distance);
  }
}

// The loss, and as the last column of `saved` what a term of a positive pair and one of a negative pair weigh in it.
// One block, so that sums are taken in one order.
template <typename T>
__global__ void __launch_bounds__(1024) conclude(
    const Results results, const T* __restrict__ squares, const T* __restrict__ other_squares, int64_t others,
    Reduction reduction, bool two_sums, T* __restrict__ loss) {
  double sums[4] = {};
  int unseen[1] = {0};
  for (int64_t i = threadIdx.x; i < results.anchors; i += blockDim.x) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums[k] += results.partial[k * results.anchors + i];
    }
    unseen[0] |= squares[i] != squares[i];
  }
  for (int64_t j = threadIdx.x; j < others; j += blockDim.x) {
    unseen[0] |= other_squares[j] != other_squares[j];
  }
  sum_over_block(sums);
  sum_over_block(unseen);
  if (threadIdx.x == 0) {
    // Over nothing the sum is 0, or NaN.
    auto share = [&](double count) { return reduction == Reduction::sum ? 1.0 : count > 0 ? 1 / count : 0.0; };
    auto over = [&](double sum, double count) {
      return reduction == Reduction::sum || count == 0 ? sum : sum / count;
    };
    const double value = over(sums[0], sums[1]) + over(sums[2], sums[3]);
    // Mining and maxima may have lost a NaN, which compares with nothing.
    *loss = unseen[0] ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(value);
    const int64_t last = results.stride - 1;
    results.statistic(0, last) = share(sums[1]);
    results.statistic(1, last) = share(two_sums ? sums[3] : sums[1]);
    results.statistic(2, last) = results.statistic(3, last) = 0;
  }
}

// Sums of products with weights → gradients of the rows that came in: distances give −(Σ weights)·x, then the scaling
// to unit length has its derivative, and the loss its gradient. Each of the sums may be missing.
template <typename scalar_t, typename T>
__global__ void __launch_bounds__(kWarps * kWarp) finish_rows(
    const Rows<T> rows, const T* __restrict__ products, const T* __restrict__ more_products,
    const T* __restrict__ weights, const double* __restrict__ more_weights, bool normalize,
    const T* __restrict__ grad, scalar_t* __restrict__ gradient) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows.count) {
    return;
  }
  const T* x = rows.values + row * rows.stride;
  const int64_t begin = row * rows.depth;
  const T weight = (weights ? weights[row] : T(0)) + (more_weights ? static_cast<T>(more_weights[row]) : T(0));
  auto towards = [&](int64_t k) {
    return products[begin + k] + (more_products ? more_products[begin + k] : T(0)) - weight * x[k];
  };
  T along = 0;
  if (normalize) {
    for (int64_t k = threadIdx.x; k < rows.depth; k += kWarp) {
      along += towards(k) * x[k];
    }
    along = warp_sum(along);
  }
  const double norm = rows.norms[row], scale = norm == 0 ? 0.0 : static_cast<double>(*grad) / norm;
  for (int64_t k = threadIdx.x; k < rows.depth; k += kWarp) {
    gradient[begin + k] = static_cast<scalar_t>(static_cast<T>(static_cast<double>(towards(k) - along * x[k]) * scale));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) add_to(T* __restrict__ sums, const T* __restrict__ values, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    sums[i] += values[i];
  }
}

} // namespace robustdml::pair
