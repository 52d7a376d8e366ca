// From the moments of the classes to the energies of their pairs, L(I,J) = w_I + w_J + |μ_I − μ_J|², and what each
// class pulls on its rows: all in float64, the classes being few.
#pragma once

#include "energy_confusion_classes.h"

#include <cmath>

namespace robustdml::energy {

// Of an ordered pair (I, J), with f the identity or log(1 + ·): the slopes g = f'(L) add up to
struct Pulls {
  double value = 0;      // Σ f(L(I,J))
  Buffer<double> slopes; // [C], s_I = Σ_J (g_IJ + g_JI)
  Buffer<double> means;  // [C, stride], t_I = Σ_J (g_IJ + g_JI)·(μ_I − μ_J), where a gradient is wanted

  Pulls(const Moments& moments, int64_t classes, bool gradient)
      : slopes(classes), means(gradient ? classes * moments.stride : 0) {}
};

// log(1 + x) for x ≥ 0; NaN for NaN.
template <typename V>
inline V log_one_plus(V x) {
  using I = simd::Vector<int64_t>;
  constexpr int64_t mantissa = (int64_t{1} << 52) - 1, one = int64_t{1023} << 52;
  const I bits = simd::bits<I>(x + 1.0);
  const auto small = x <= 1.0;
  // 1 + x = 2ⁿ·(1 + fraction): only that fraction, or a small x itself, is in the range of the series.
  const V fraction = simd::bits<V>((bits & mantissa) | one) - 1.0;
  const V exponent = __builtin_convertvector((bits >> 52) - 1023, V);
  const V series = simd::log1p(small ? x : fraction);
  const V value = small ? series : series + exponent * 0.6931471805599453;
  return x < std::numeric_limits<double>::infinity() ? value : x;
}

// The plain sum over all pairs needs no pair: Σ_{I<J} L = (C−1)·Σ w + C·Σ |μ_I − m|² with m the mean of the means.
// `m`: [stride].
inline void add_all_plain(const Moments& moments, int64_t classes, const double* m, bool gradient, Pulls& pulls) {
  double within = 0, between = 0;
  const double all = static_cast<double>(classes);
  for (int64_t k = 0; k < classes; ++k) {
    const double* mean = moments.means.get() + k * moments.stride;
    double square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t d = 0; d < moments.stride; ++d) {
      const double offset = mean[d] - m[d];
      square += offset * offset;
    }
    within += moments.scatters[k];
    between += square;
    pulls.slopes[k] = 2 * (all - 1);
    double* pull = pulls.means.get() + k * moments.stride;
    for (int64_t d = 0; gradient && d < moments.stride; ++d) {
      pull[d] = 2 * all * (mean[d] - m[d]);
    }
  }
  pulls.value = 2 * ((all - 1) * within + all * between);
}

constexpr int64_t kSide = 16; // of a square of class pairs

// squares[i·kSide + j] = |μ_i − μ_j|² for the classes from `row` and from `column` on. By differences, not
// products: exact for classes that lie close together far from the others. Classes past the last repeat it.
inline void squared_distances(
    const Moments& moments, int64_t classes, int64_t row, int64_t column, double* squares) {
  using V = simd::Vector<double>;
  constexpr int height = 2, width = 4;
  auto mean = [&](int64_t k) { return moments.means.get() + std::min(k, classes - 1) * moments.stride; };
  for (int64_t i = 0; i < kSide; i += height) {
    for (int64_t j = 0; j < kSide; j += width) {
      const double *a[height], *b[width];
      for (int64_t p = 0; p < height; ++p) {
        a[p] = mean(row + i + p);
      }
      for (int64_t q = 0; q < width; ++q) {
        b[q] = mean(column + j + q);
      }
      V sums[height][width] = {};
      for (int64_t d = 0; d < moments.stride; d += simd::kLanes<double>) {
        V left[height];
#pragma GCC unroll 2
        for (int p = 0; p < height; ++p) {
          left[p] = simd::load<double>(a[p] + d);
        }
#pragma GCC unroll 4
        for (int q = 0; q < width; ++q) {
          const V right = simd::load<double>(b[q] + d);
#pragma GCC unroll 2
          for (int p = 0; p < height; ++p) {
            const V difference = left[p] - right;
            sums[p][q] += difference * difference;
          }
        }
      }
      for (int p = 0; p < height; ++p) {
        for (int q = 0; q < width; ++q) {
          double sum = 0;
          for (int lane = 0; lane < simd::kLanes<double>; ++lane) {
            sum += sums[p][q][lane];
          }
          squares[(i + p) * kSide + j + q] = sum;
        }
      }
    }
  }
}

// Squared distances of a square of pairs become slopes 1/(1 + L), 0 where there is no pair; returns Σ log(1 + L).
inline double log_energies(
    const Moments& moments, int64_t classes, int64_t row, int64_t column, double* squares) {
  using V = simd::Vector<double>;
  using M = simd::Mask<double>;
  constexpr int64_t lanes = simd::kLanes<double>;
  V sum{};
  M lane{};
  for (int64_t l = 0; l < lanes; ++l) {
    lane[l] = l;
  }
  for (int64_t i = 0; i < kSide && row + i < classes; ++i) {
    const double own = moments.scatters[row + i];
    for (int64_t j = 0; j < kSide && column + j < classes; j += lanes) {
      double* at = squares + i * kSide + j;
      const V energy = simd::load<double>(at) + simd::load<double>(moments.scatters.get() + column + j) + own;
      const M index = lane + (column + j);
      const M pair = (index < classes) & (index != row + i);
      sum += pair ? log_one_plus(energy) : V{};
      simd::store(at, pair ? 1.0 / (1.0 + energy) : V{});
    }
  }
  double total = 0;
  for (int64_t l = 0; l < lanes; ++l) {
    total += sum[l];
  }
  return total;
}

// Pulls of the classes [begin, end) from their slopes towards all classes, [end − begin, stride]: `kept` rows a
// time against one read of the means.
inline void pull_rows(
    const Moments& moments, int64_t classes, int64_t begin, int64_t end, const double* slopes, int64_t stride,
    bool gradient, Pulls& pulls) {
  using V = simd::Vector<double>;
  constexpr int64_t lanes = simd::kLanes<double>;
  constexpr int kept = lanes >= 8 ? 8 : 4, vectors = 2;
  parallel_tasks((end - begin + kept - 1) / kept, kept * classes * moments.stride, [&](int64_t task) {
    const int64_t first = begin + task * kept, count = std::min<int64_t>(kept, end - first);
    const double* from[kept];
    for (int64_t i = 0; i < kept; ++i) {
      from[i] = slopes + (first - begin + std::min(i, count - 1)) * stride;
    }
    for (int64_t i = 0; i < count; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < classes; ++j) {
        sum += from[i][j];
      }
      pulls.slopes[first + i] = 2 * sum;
    }
    for (int64_t d = 0; gradient && d < moments.stride; d += vectors * lanes) {
      // The last vector of an odd number of them is done twice.
      const int64_t at[vectors] = {d, std::min(d + lanes, moments.stride - lanes)};
      V sums[kept][vectors] = {};
      for (int64_t j = 0; j < classes; ++j) {
        const double* mean = moments.means.get() + j * moments.stride;
        const V left = simd::load<double>(mean + at[0]), right = simd::load<double>(mean + at[1]);
#pragma GCC unroll 8
        for (int i = 0; i < kept; ++i) {
          sums[i][0] += from[i][j] * left;
          sums[i][1] += from[i][j] * right;
        }
      }
      for (int64_t i = 0; i < count; ++i) {
        const double* mean = moments.means.get() + (first + i) * moments.stride;
        double* to = pulls.means.get() + (first + i) * moments.stride;
        for (int v = 0; v < vectors; ++v) {
          simd::store(
              to + at[v], pulls.slopes[first + i] * simd::load<double>(mean + at[v]) - 2.0 * sums[i][v]);
        }
      }
    }
  });
}

// The logarithms over all pairs, a strip of classes against all at a time: never a C×C matrix where C is large.
inline void add_all_logarithms(const Moments& moments, int64_t classes, bool gradient, Pulls& pulls) {
  constexpr int64_t most_slopes = int64_t{1} << 19;
  const int64_t stride = gemm::round_up(classes, kSide);
  const int64_t height = std::clamp<int64_t>(most_slopes / stride / kSide * kSide, kSide, stride);
  const Buffer<double> slopes(height * stride);
  for (int64_t begin = 0; begin < classes; begin += height) {
    const int64_t end = std::min(begin + height, classes), side = stride / kSide;
    // Inside the strip, pairs of squares that mirror each other are computed once.
    struct Square {
      int64_t row, column;
      bool mirrored;
    };
    std::vector<Square> squares;
    for (int64_t row = begin; row < end; row += kSide) {
      for (int64_t column = 0; column < side * kSide; column += kSide) {
        const bool inside = column >= begin && column < end;
        if (!inside || column >= row) {
          squares.push_back({row, column, inside && column != row});
        }
      }
    }
    const int64_t count = static_cast<int64_t>(squares.size());
    const Buffer<double> values(count);
    parallel_tasks(count, kSide * kSide * moments.stride, [&](int64_t s) {
      const auto [row, column, mirrored] = squares[s];
      double square[kSide * kSide];
      squared_distances(moments, classes, row, column, square);
      values[s] = (mirrored ? 2 : 1) * log_energies(moments, classes, row, column, square);
      for (int64_t i = 0; i < kSide && row + i < end; ++i) {
        std::copy_n(square + i * kSide, kSide, slopes.get() + (row + i - begin) * stride + column);
      }
      for (int64_t j = 0; mirrored && j < kSide && column + j < end; ++j) {
        for (int64_t i = 0; i < kSide; ++i) {
          slopes[(column + j - begin) * stride + row + i] = square[i * kSide + j];
        }
      }
    });
    for (int64_t s = 0; s < count; ++s) {
      pulls.value += values[s];
    }
    pull_rows(moments, classes, begin, end, slopes.get(), stride, gradient, pulls);
  }
}

// Pairs that are listed, [count, 2]; a class paired with itself is no pair.
inline void add_listed(
    const Moments& moments, const int64_t* pairs, int64_t count, bool logarithmic, bool gradient, Pulls& pulls) {
  const Buffer<double> values(count), slopes(count);
  auto mean = [&](int64_t k) { return moments.means.get() + k * moments.stride; };
  parallel_tasks(count, moments.stride, [&](int64_t p) {
    const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
    const double *a = mean(i), *b = mean(j);
    double energy = moments.scatters[i] + moments.scatters[j];
#pragma omp simd reduction(+ : energy)
    for (int64_t d = 0; d < moments.stride; ++d) {
      const double difference = a[d] - b[d];
      energy += difference * difference;
    }
    values[p] = i == j ? 0 : logarithmic ? std::log1p(energy) : energy;
    slopes[p] = i == j ? 0 : logarithmic ? 1 / (1 + energy) : 1.0;
  });
  pulls.slopes.fill(0);
  for (int64_t p = 0; p < count; ++p) {
    pulls.value += values[p];
    pulls.slopes[pairs[2 * p]] += slopes[p];
    pulls.slopes[pairs[2 * p + 1]] += slopes[p];
  }
  if (!gradient) {
    return;
  }
  // Two pairs may share a class, so threads share out the columns.
  constexpr int64_t columns = 64;
  pulls.means.fill(0);
  parallel_tasks((moments.stride + columns - 1) / columns, count * columns, [&](int64_t block) {
    const int64_t begin = block * columns, end = std::min(begin + columns, moments.stride);
    for (int64_t p = 0; p < count; ++p) {
      const int64_t i = pairs[2 * p], j = pairs[2 * p + 1];
      if (i == j) {
        continue;
      }
      const double *a = mean(i), *b = mean(j), slope = slopes[p];
      double *to_a = pulls.means.get() + i * moments.stride, *to_b = pulls.means.get() + j * moments.stride;
#pragma omp simd
      for (int64_t d = begin; d < end; ++d) {
        const double pull = slope * (a[d] - b[d]);
        to_a[d] += pull;
        to_b[d] -= pull;
      }
    }
  });
}

} // namespace robustdml::energy
