// All triplets, or the semi-hard ones, of an anchor without a list of them: its positives' distances are sorted, every
// negative finds by bisection which of them it violates, and differences of counts at the ends of those ranges give
// back how many negatives every positive meets. A block an anchor; O(B log B) each.
#pragma once

#include "pair_loss_strip.cuh"

namespace robustdml::pair {

constexpr int kSharedPositives = 2048; // more of them are sorted in global memory

// Where positives are sorted that do not fit in shared memory, one row for each anchor of the strip.
template <typename T>
struct Spill {
  T* values;
  int* columns;
  int* counts;
  int64_t stride;
};

// Sorts by value, then by column, so that the order in which they were gathered does not matter. A bitonic network
// whose comparisons all go one way, which needs no padding. All threads of the block must call.
template <typename T>
__device__ void sort_positives(T* values, int* columns, int count) {
  const unsigned end = static_cast<unsigned>(count);
  for (unsigned run = 2; run / 2 < end; run *= 2) {
    for (unsigned step = run / 2; step > 0; step /= 2) {
      const bool mirrored = step == run / 2;
      for (unsigned t = threadIdx.x; 2 * (t & ~(step - 1)) < end; t += blockDim.x) {
        const unsigned low = 2 * t - (t & (step - 1)), high = mirrored ? low ^ (run - 1) : low + step;
        if (high < end) {
          const T a = values[low], b = values[high];
          const int i = columns[low], j = columns[high];
          if (a > b || (a == b && i > j)) {
            values[low] = b;
            values[high] = a;
            columns[low] = j;
            columns[high] = i;
          }
        }
      }
      __syncthreads();
    }
  }
}

// counts[k] → counts[0] + … + counts[k]. All threads of the block must call.
__device__ inline void running_sums(int* counts, int count) {
  __shared__ int of_threads[kThreads];
  const int each = (count + blockDim.x - 1) / blockDim.x;
  const int begin = min(static_cast<int>(threadIdx.x) * each, count), end = min(begin + each, count);
  int sum = 0;
  for (int k = begin; k < end; ++k) {
    sum += counts[k];
    counts[k] = sum;
  }
  of_threads[threadIdx.x] = sum;
  __syncthreads();
  int before = 0;
  for (int t = 0; t < static_cast<int>(threadIdx.x) && begin < end; ++t) {
    before += of_threads[t];
  }
  for (int k = begin; k < end; ++k) {
    counts[k] += before;
  }
  __syncthreads();
}

// The first of the sorted values that is wanted, where all after it are too.
template <typename T, typename Wanted>
__device__ __forceinline__ int first_of(const T* values, int count, const Wanted& wanted) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (wanted(values[middle])) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Forward (sums null): the anchor's sum over triplets and their number, or that of those above 0. Backward: weights in
// place of distances, of this anchor's triplets alone, and their sum.
template <typename T>
__global__ void __launch_bounds__(kThreads) sorted_triplets(
    const Strip<T> strip, T margin, bool semihard, bool nonzero, const Spill<T> spill, const Results results,
    Measure measure, T* __restrict__ sums) {
  __shared__ T shared_values[kSharedPositives];
  __shared__ int shared_columns[kSharedPositives], shared_counts[kSharedPositives + 1], gathered;
  const int r = static_cast<int>(blockIdx.x), own = strip.own_column(r);
  const int64_t anchor = strip.first + r, label = strip.row_labels[anchor];
  T* row = strip.row(r);
  const bool backward = sums != nullptr;
  const T share = backward ? static_cast<T>(results.statistic(0, results.stride - 1)) : T(0);

  int found[2] = {0, 0}; // positives, negatives
  for (int column = threadIdx.x; column < strip.columns; column += blockDim.x) {
    const bool same = strip.column_labels[column] == label;
    found[0] += same && column != own;
    found[1] += !same && column != own;
  }
  sum_over_block(found);
  const int positives = found[0];
  const bool spilled = positives > kSharedPositives;
  T* values = spilled ? spill.values + r * spill.stride : shared_values;
  int* columns = spilled ? spill.columns + r * spill.stride : shared_columns;
  int* counts = spilled ? spill.counts + r * (spill.stride + 1) : shared_counts;
  if (positives == 0 || found[1] == 0) {
    for (int column = threadIdx.x; backward && column < strip.columns; column += blockDim.x) {
      row[column] = T(0);
    }
    if (threadIdx.x == 0 && backward) {
      sums[anchor] = T(0);
    } else if (threadIdx.x == 0) {
      results.add(anchor, 0, 0);
    }
    return;
  }

  if (threadIdx.x == 0) {
    gathered = 0;
  }
  for (int k = threadIdx.x; k <= positives; k += blockDim.x) {
    counts[k] = 0;
  }
  __syncthreads();
  for (int column = threadIdx.x; column < strip.columns; column += blockDim.x) {
    if (strip.column_labels[column] == label && column != own) {
      const int slot = atomicAdd(&gathered, 1);
      values[slot] = row[column];
      columns[slot] = column;
    }
  }
  __syncthreads();
  sort_positives(values, columns, positives);

  double total[1] = {0};
  int64_t triplets[1] = {0};
  int all_violated[1] = {0};
  T weights[1] = {0};
  for (int column = threadIdx.x; column < strip.columns; column += blockDim.x) {
    if (column == own) {
      if (backward) {
        row[column] = T(0);
      }
      continue;
    }
    if (strip.column_labels[column] == label) {
      continue; // its weight is known at the end
    }
    const T value = row[column];
    const int begin = first_of(values, positives, [&](T positive) { return positive + margin > value; });
    const int end =
        semihard ? first_of(values, positives, [&](T positive) { return positive >= value; }) : positives;
    const int count = end > begin ? end - begin : 0;
    if (count > 0) {
      total[0] -= count * static_cast<double>(value);
      triplets[0] += count;
      // Most counts begin at the first positive or end at the last, and would queue for one address.
      if (begin == 0) {
        ++all_violated[0];
      } else {
        atomicAdd(counts + begin, 1);
      }
      if (end < positives) {
        atomicAdd(counts + end, -1);
      }
    }
    if (backward) {
      const T weight = count > 0 ? -share * static_cast<T>(count) * towards_product(measure, value) : T(0);
      row[column] = weight;
      weights[0] += weight;
    }
  }
  sum_over_block(all_violated);
  if (threadIdx.x == 0) {
    counts[0] += all_violated[0];
  }
  __syncthreads();
  running_sums(counts, positives);
  for (int k = threadIdx.x; k < positives; k += blockDim.x) {
    const int count = counts[k];
    const T value = values[k];
    if (count > 0) {
      total[0] += count * (static_cast<double>(value) + static_cast<double>(margin));
    }
    if (backward) {
      const T weight = count > 0 ? share * static_cast<T>(count) * towards_product(measure, value) : T(0);
      row[columns[k]] = weight;
      weights[0] += weight;
    }
  }
  if (backward) {
    sum_over_block(weights);
  } else {
    sum_over_block(total);
    sum_over_block(triplets);
  }
  if (threadIdx.x == 0) {
    if (backward) {
      sums[anchor] = weights[0];
    } else {
      const double all = static_cast<double>(positives) * found[1];
      results.add(anchor, total[0], semihard || nonzero ? static_cast<double>(triplets[0]) : all);
    }
  }
}

} // namespace robustdml::pair
