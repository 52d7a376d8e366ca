// Scores of all pairs under the learned similarity on CUDA. A block takes 32 × 32 pairs; four groups of 64 threads
// share the hidden units, each thread keeping the sums and mask words of 4 × 4 pairs in registers, and meet once at the
// end.
#include "similarity.cuh"

namespace robustdml {
namespace {

using namespace similarity;

constexpr int kSide = 32;    // embeddings, and prototypes, of a block
constexpr int kEach = 4;     // of a thread, kSide / kEach apart
constexpr int kAcross = kSide / kEach;
constexpr int kGroup = kAcross * kAcross; // threads that cover all pairs of the block once
constexpr int kGroups = 4;
constexpr int kPadded = kSide + 1; // neighbors in a column lie in different banks

// Units of a step: as many as fit into the shared memory that every GPU has.
template <typename T>
constexpr int kStep = kUnits * 4 / sizeof(T);

template <typename T>
union Shared {
  struct {
    T embeddings[kGroups][kStep<T>][kPadded];
    T prototypes[kGroups][kStep<T>][kPadded];
    T weight[kGroups][kStep<T>];
  } units;
  T sums[kGroups][kSide][kSide];
};

template <typename T>
__device__ __forceinline__ void stage(
    const Items<T>& items, int first, int hidden, int unit, int units, int thread, T (&to)[kStep<T>][kPadded]) {
  for (int i = thread; i < kSide * kStep<T>; i += kGroup) {
    const int row = i / kStep<T>, h = i % kStep<T>;
    const bool real = h < units && first + row < items.count;
    to[h][row] = real ? items.values[static_cast<int64_t>(first + row) * hidden + unit + h] : T(0);
  }
}

// Grid: (blocks of prototypes) × (blocks of embeddings), the latter from `first_block` on.
template <typename T, bool dropped>
__global__ void __launch_bounds__(kGroup* kGroups)
    score_pairs(const Problem<T> p, const T* __restrict__ bias, T* __restrict__ scores, int first_block) {
  __shared__ Shared<T> shared;
  const int thread = threadIdx.x % kGroup, group = threadIdx.x / kGroup;
  const int x = thread % kAcross, y = thread / kAcross;
  const int c0 = blockIdx.x * kSide, b0 = (first_block + blockIdx.y) * kSide;
  T sums[kEach][kEach] = {};
  // All groups go the same number of steps, since they meet at every one.
  for (int word0 = 0; word0 < p.words; word0 += kGroups) {
    const int word = word0 + group;
    uint32_t kept[kEach][kEach];
    if (dropped && word < p.words) {
      const int64_t draws = static_cast<int64_t>(word) * p.dropout.draws;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          kept[i][j] = ~0u;
        }
      }
      for (int d = 0; d < p.dropout.draws; ++d) {
        const uint32_t* of_b = p.embeddings.draws + (draws + d) * p.embeddings.count;
        const uint32_t* of_c = p.prototypes.draws + (draws + d) * p.prototypes.count;
        uint32_t right[kEach];
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          right[j] = of_c[min(c0 + x + j * kAcross, p.prototypes.count - 1)];
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const uint32_t left = of_b[min(b0 + y + i * kAcross, p.embeddings.count - 1)];
#pragma unroll
          for (int j = 0; j < kEach; ++j) {
            kept[i][j] = keep(kept[i][j], mix(left + right[j]), p.dropout.bit(d));
          }
        }
      }
    }
    // A sum of its own for each word: long sums in one chain lose digits.
    T of_word[kEach][kEach] = {};
#pragma unroll
    for (int step = 0; step < kUnits / kStep<T>; ++step) {
      const int unit = word * kUnits + step * kStep<T>;
      const int units = max(0, min(kStep<T>, p.hidden - unit));
      __syncthreads();
      stage(p.embeddings, b0, p.hidden, unit, units, thread, shared.units.embeddings[group]);
      stage(p.prototypes, c0, p.hidden, unit, units, thread, shared.units.prototypes[group]);
      for (int h = thread; h < kStep<T>; h += kGroup) {
        shared.units.weight[group][h] = h < units ? p.weight[unit + h] : T(0);
      }
      __syncthreads();
#pragma unroll 8
      for (int h = 0; h < kStep<T>; ++h) {
        if (h >= units) {
          break;
        }
        const T weight = shared.units.weight[group][h];
        T right[kEach];
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          right[j] = shared.units.prototypes[group][h][x + j * kAcross];
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const T left = shared.units.embeddings[group][h][y + i * kAcross];
#pragma unroll
          for (int j = 0; j < kEach; ++j) {
            const T sum = left + right[j];
            const T active = sum > T(0) ? sum : sum * p.slope;
            if constexpr (dropped) {
              const bool keeps = static_cast<int32_t>(kept[i][j] << (step * kStep<T> + h)) < 0;
              of_word[i][j] += keeps ? weight * active : T(0);
            } else {
              of_word[i][j] += weight * active;
            }
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        sums[i][j] += of_word[i][j];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      shared.sums[group][y + i * kAcross][x + j * kAcross] = sums[i][j];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kSide * kSide; i += kGroup * kGroups) {
    const int b = b0 + i / kSide, c = c0 + i % kSide;
    if (b < p.embeddings.count && c < p.prototypes.count) {
      T sum = T(0);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        sum += shared.sums[g][i / kSide][i % kSide];
      }
      scores[static_cast<int64_t>(b) * p.prototypes.count + c] = sum * T(p.dropout.scale) + *bias;
    }
  }
}

Tensor scores(
    Tensor embeddings, Tensor prototypes, Tensor weight, Tensor bias, std::optional<Tensor> seed, double slope,
    int64_t dropped) {
  check("similarity", embeddings, prototypes, weight, seed, dropped);
  STD_TORCH_CHECK(
      bias.numel() == 1 && bias.scalar_type() == weight.scalar_type(),
      "similarity: expected one bias of the weight's dtype");
  check_device("similarity", embeddings, {&bias});
  const Device device(embeddings);
  const ScalarType type = weight.scalar_type();
  const Tensor e = as_type(embeddings, type), c = as_type(prototypes, type), w = as_contiguous(weight);
  const Dropout dropout(dropped);
  const auto of_e = draws_of(device, e, seed, Side::embeddings, dropout);
  const auto of_c = draws_of(device, c, seed, Side::prototypes, dropout);
  Tensor out = new_empty_like_type(e, {e.size(0), c.size(0)}, type);
  dispatch_wide(type, dropped > 0, [&](auto zero, auto is_dropped) {
    using T = decltype(zero);
    const int hidden = static_cast<int>(e.size(1));
    const Problem<T> p{
        items_of<T>(e, of_e), items_of<T>(c, of_c), data<T>(w), hidden, static_cast<int>(divide_up(hidden, kUnits)),
        static_cast<T>(slope), dropout};
    const int64_t blocks = divide_up(p.embeddings.count, kSide);
    for (int64_t first = 0; first < blocks; first += kMostRows) {
      launch(
          device, score_pairs<T, is_dropped.value>, divide_up(p.prototypes.count, kSide),
          std::min(kMostRows, blocks - first), dim3(kGroup * kGroups), p, data<T>(bias), mutable_data<T>(out),
          static_cast<int>(first));
    }
  });
  return out;
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("similarity", TORCH_BOX(&robustdml::scores));
}
