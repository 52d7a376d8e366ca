// The mean and the scatter of each class in one read of the batch, and a row's gradient from what its class knows.
#pragma once

#include "../common/parallel.h"
#include "../common/tensor.h"
#include "energy_confusion_groups.h"
#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace robustdml::energy {

using gemm::Buffer;

// Rows of the batch in the type that is computed in: themselves, or widened into a buffer of `slots` rows.
template <typename scalar_t>
class Rows {
 public:
  using T = accumulate_t<scalar_t>;
  Rows(const scalar_t* data, int64_t dimensions, int64_t slots)
      : data_(data), dimensions_(dimensions), widened_(kSame ? 0 : slots * dimensions) {}

  const T* get(int64_t row, int64_t slot) const {
    const scalar_t* from = data_ + row * dimensions_;
    if constexpr (kSame) {
      return from;
    } else {
      T* to = widened_.get() + slot * dimensions_;
      for (int64_t d = 0; d < dimensions_; ++d) {
        to[d] = static_cast<T>(from[d]);
      }
      return to;
    }
  }

 private:
  static constexpr bool kSame = std::is_same_v<scalar_t, T>;
  const scalar_t* data_;
  int64_t dimensions_;
  Buffer<T> widened_;
};

// sums += Σ (x − origin) and squares += Σ (x − origin)², column by column. Four rows are added up in type U, and
// then to float64: widening each number would take longer than reading it.
template <typename U, typename T>
inline void add_four(
    const T* a, const T* b, const T* c, const T* d, const T* origin, double* sums, double* squares,
    int64_t dimensions) {
#pragma omp simd
  for (int64_t i = 0; i < dimensions; ++i) {
    const U o = origin[i], p = a[i] - o, q = b[i] - o, r = c[i] - o, s = d[i] - o;
    sums[i] += static_cast<double>((p + q) + (r + s));
    squares[i] += static_cast<double>((p * p + q * q) + (r * r + s * s));
  }
}

template <typename T>
inline void add_one(const T* a, const T* origin, double* sums, double* squares, int64_t dimensions) {
#pragma omp simd
  for (int64_t i = 0; i < dimensions; ++i) {
    const double p = a[i] - static_cast<double>(origin[i]);
    sums[i] += p;
    squares[i] += p * p;
  }
}

// Class means, relative to row 0 of the batch, and scatters w_k = (1/N_k) Σ |x − μ_k|². Rows of `means` are padded
// with zeros to whole vectors.
//
// A class is summed relative to its own first row, so that neither a common offset nor the distance between
// classes cancels digits of the scatter.
class Moments {
 public:
  Moments(const Classes& classes, int64_t dimensions)
      : stride(gemm::round_up(dimensions, simd::kLanes<double>)), means(classes.count * stride),
        scatters(gemm::round_up(classes.count, simd::kLanes<double>)), classes_(classes), dimensions_(dimensions) {
    scatters.fill(0);
  }

  template <typename scalar_t>
  void compute(const scalar_t* x) {
    // Classes longer than a segment are cut, so that a batch of few classes occupies every thread.
    constexpr int64_t most_rows = 256;
    std::vector<int64_t> begins(classes_.count + 1, 0);
    for (int64_t k = 0; k < classes_.count; ++k) {
      begins[k + 1] = begins[k] + (classes_.size(k) + most_rows - 1) / most_rows;
    }
    const int64_t segments = begins[classes_.count], more = segments - classes_.count;
    const Buffer<double> more_sums(more * stride), more_squares(more);
    const int64_t work = classes_.rows * dimensions_ / std::max<int64_t>(segments, 1);
    parallel_tasks(segments, work, [&](int64_t s) {
      const int64_t k = std::upper_bound(begins.begin(), begins.end(), s) - begins.begin() - 1;
      const int64_t part = s - begins[k], extra = begins[k] - k + part - 1;
      const int64_t begin = classes_.begins[k] + part * most_rows;
      const int64_t end = std::min(begin + most_rows, classes_.begins[k + 1]);
      double* sums = part ? more_sums.get() + extra * stride : means.get() + k * stride;
      (part ? more_squares[extra] : scatters[k]) = sum(x, k, begin, end, sums);
      if (begins[k + 1] == begins[k] + 1) {
        finish(x, k);
      }
    });
    for (int64_t k = 0; k < classes_.count && more; ++k) {
      for (int64_t s = begins[k] + 1; s < begins[k + 1]; ++s) {
        scatters[k] += more_squares[s - k - 1];
        const double* from = more_sums.get() + (s - k - 1) * stride;
        double* to = means.get() + k * stride;
#pragma omp simd
        for (int64_t d = 0; d < dimensions_; ++d) {
          to[d] += from[d];
        }
      }
      if (begins[k + 1] > begins[k] + 1) {
        finish(x, k);
      }
    }
  }

  int64_t stride;
  Buffer<double> means, scatters;

 private:
  // Sum of x − first row into `sums`; returns that of |x − first row|².
  template <typename scalar_t>
  double sum(const scalar_t* x, int64_t k, int64_t begin, int64_t end, double* sums) const {
    using T = accumulate_t<scalar_t>;
    const Rows<scalar_t> rows(x, dimensions_, 5);
    const T* origin = rows.get(classes_.first(k), 4);
    const double total = sum_in<T>(rows, origin, begin, end, sums);
    // Squares that float32 cannot hold, or holds to few digits: once more, in float64.
    const double least = 1e-28 * static_cast<double>((end - begin) * dimensions_);
    const bool held = std::is_same_v<T, double> || classes_.size(k) == 1 ||
        (total > least && total < std::numeric_limits<double>::infinity());
    return held ? total : sum_in<double>(rows, origin, begin, end, sums);
  }

  template <typename U, typename scalar_t>
  double sum_in(
      const Rows<scalar_t>& rows, const accumulate_t<scalar_t>* origin, int64_t begin, int64_t end,
      double* sums) const {
    const int64_t* order = classes_.order;
    const Buffer<double> squares(dimensions_);
    std::fill_n(squares.get(), dimensions_, 0.0);
    std::fill_n(sums, stride, 0.0);
    int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
      add_four<U>(
          rows.get(order[i], 0), rows.get(order[i + 1], 1), rows.get(order[i + 2], 2), rows.get(order[i + 3], 3),
          origin, sums, squares.get(), dimensions_);
    }
    for (; i < end; ++i) {
      add_one(rows.get(order[i], 0), origin, sums, squares.get(), dimensions_);
    }
    double total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t d = 0; d < dimensions_; ++d) {
      total += squares[d];
    }
    return total;
  }

  template <typename scalar_t>
  void finish(const scalar_t* x, int64_t k) const {
    using T = accumulate_t<scalar_t>;
    const scalar_t *origin = x, *first = x + classes_.first(k) * dimensions_;
    const double share = 1.0 / static_cast<double>(classes_.size(k));
    double* mean = means.get() + k * stride;
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t d = 0; d < dimensions_; ++d) {
      const double offset = mean[d] * share;
      square += offset * offset;
      const T ours = static_cast<T>(first[d]), common = static_cast<T>(origin[d]);
      mean[d] = offset + (static_cast<double>(ours) - static_cast<double>(common));
    }
    const double scatter = scatters[k] * share - square;
    scatters[k] = scatter < 0 ? 0 : scatter; // a NaN stays
  }

  const Classes& classes_;
  int64_t dimensions_;
};

// gradient_i = scale_k·(x_i − first row of class k) + shift_k, times the incoming gradient: rows in the order of
// their classes, so that what a class has in common is read once.
template <typename scalar_t>
void rows_from_classes(
    const scalar_t* x, const Classes& classes, int64_t dimensions, const double* scales,
    const accumulate_t<scalar_t>* shifts, double incoming, scalar_t* gradient) {
  using T = accumulate_t<scalar_t>;
  constexpr int64_t block = 32;
  const bool streamed = classes.rows * dimensions * static_cast<int64_t>(sizeof(scalar_t)) >= kStreamedBytes;
  parallel_tasks((classes.rows + block - 1) / block, block * dimensions, [&](int64_t b) {
    const int64_t end = std::min((b + 1) * block, classes.rows);
    const Buffer<scalar_t> line(streamed ? dimensions : 0);
    int64_t k = classes.class_at(b * block) - 1, stop = b * block; // of the class at hand
    double scale = 0;
    bool in_range = true;
    for (int64_t i = b * block; i < end; ++i) {
      if (i == stop) {
        stop = classes.begins[++k + 1];
        scale = incoming * scales[k];
        // The slope of a logarithm falls out of float32's range where the features are at the other end of it.
        in_range = std::abs(scale) >= std::numeric_limits<T>::min() || scale == 0;
      }
      const int64_t row = classes.order[i];
      const scalar_t *from = x + row * dimensions, *first = x + classes.first(k) * dimensions;
      const T* shift = shifts + k * dimensions;
      scalar_t* to = streamed ? line.get() : gradient + row * dimensions;
      auto write = [&](auto a, auto b) {
        using U = decltype(a);
#pragma omp simd
        for (int64_t d = 0; d < dimensions; ++d) {
          const U offset = static_cast<U>(static_cast<T>(from[d])) - static_cast<U>(static_cast<T>(first[d]));
          to[d] = static_cast<scalar_t>(static_cast<T>(a * offset + b * static_cast<U>(shift[d])));
        }
      };
      if (in_range) {
        write(static_cast<T>(scale), static_cast<T>(incoming));
      } else {
        write(scale, incoming);
      }
      if (streamed) {
        stream_copy(gradient + row * dimensions, line.get(), dimensions * sizeof(scalar_t));
      }
    }
  });
}

} // namespace robustdml::energy
