// Gradients of the learned similarity on CUDA. With t = g · keep · leaky'(x), dE is w times the sum of t over prototypes
// and dP over embeddings: one kernel, run once for each side. dw_h = Σ t · x = Σ_b E_bh Σ_c t + Σ_c P_ch Σ_b t comes from
// the same sums.
//
// A block takes 16 rows of its side and the 32 hidden units of one mask word, one a lane, and goes through the other
// side 32 items at a time; a pair's mask word is made once for all 32 units and read by all lanes.
#include "similarity.cuh"

namespace robustdml {
namespace {

using namespace similarity;

constexpr int kWarps = 8, kEach = 2;   // rows of a warp
constexpr int kBlock = kWarps * kEach; // rows of a block
constexpr int kItems = 32;             // of the other side, a step
static_assert(kUnits == kWarp, "a lane is a hidden unit");

// Sums for one side: `own` its items, `other` the other side's. The gradient of (row, item) lies at
// row·row_stride + item·item_stride. of_own: [rows, H]. of_weight: this side's share of dw, [blocks of rows][H].
// Grid: words × (blocks of rows, from `first_block` on).
template <typename T, bool dropped>
__global__ void __launch_bounds__(kWarp* kWarps) add_side(
    const Items<T> own, const Items<T> other, const T* __restrict__ weight, int hidden, T slope, const Dropout dropout,
    const T* __restrict__ grad, int64_t row_stride, int64_t item_stride, T* __restrict__ of_own,
    T* __restrict__ of_weight, int first_block) {
  __shared__ T items[kItems][kWarp];
  __shared__ T gradients[kBlock][kItems];
  __shared__ uint32_t kept[kBlock][kItems];
  __shared__ T shares[kWarps][kWarp];
  const int lane = threadIdx.x, warp = threadIdx.y, word = blockIdx.x;
  const int thread = warp * kWarp + lane, threads = kWarp * kWarps;
  const int64_t block = first_block + blockIdx.y;
  const int row0 = static_cast<int>(block * kBlock), unit = word * kUnits + lane;
  T values[kEach], sums[kEach] = {};
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = row0 + warp * kEach + r;
    values[r] = row < own.count && unit < hidden ? own.values[static_cast<int64_t>(row) * hidden + unit] : T(0);
  }
  for (int first = 0; first < other.count; first += kItems) {
    __syncthreads();
    for (int i = warp; i < kItems; i += kWarps) {
      const bool real = first + i < other.count && unit < hidden;
      items[i][lane] = real ? other.values[static_cast<int64_t>(first + i) * hidden + unit] : T(0);
    }
    for (int i = thread; i < kBlock * kItems; i += threads) {
      // Neighboring threads read what lies side by side: items for one side, rows for the other.
      const int r = item_stride == 1 ? i / kItems : i % kBlock, n = item_stride == 1 ? i % kItems : i / kBlock;
      const int64_t row = row0 + r, item = first + n;
      const bool real = row < own.count && item < other.count;
      gradients[r][n] = real ? grad[row * row_stride + item * item_stride] : T(0);
    }
    if constexpr (dropped) {
      for (int i = thread; i < kBlock * kItems; i += threads) {
        const int row = min(row0 + i / kItems, own.count - 1), item = min(first + i % kItems, other.count - 1);
        const int64_t draws = static_cast<int64_t>(word) * dropout.draws;
        kept[i / kItems][i % kItems] = mask_word(
            dropout, own.draws + draws * own.count + row, own.count, other.draws + draws * other.count + item,
            other.count);
      }
    }
    __syncthreads();
    // A sum of its own for each step: long sums in one chain lose digits.
    T of_step[kEach] = {};
#pragma unroll
    for (int n = 0; n < kItems; ++n) {
      const T item = items[n][lane];
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const int row = warp * kEach + r;
        T factor = values[r] + item > T(0) ? T(1) : slope;
        if constexpr (dropped) {
          factor = static_cast<int32_t>(kept[row][n] << lane) < 0 ? factor : T(0);
        }
        of_step[r] += factor * gradients[row][n];
      }
    }
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
      sums[r] += of_step[r];
    }
  }
  const T scale = T(dropout.scale);
  T share = T(0);
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = row0 + warp * kEach + r;
    share += values[r] * sums[r] * scale;
    if (row < own.count && unit < hidden) {
      of_own[static_cast<int64_t>(row) * hidden + unit] = sums[r] * (weight[unit] * scale);
    }
  }
  shares[warp][lane] = share;
  __syncthreads();
  if (warp == 0 && unit < hidden) {
    T sum = T(0);
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      sum += shares[i][lane];
    }
    of_weight[block * hidden + unit] = sum;
  }
}

// dw_h = the sum of column h of `shares` [count][H], always in the same order. Block: (32 units, kWarps).
template <typename T>
__global__ void __launch_bounds__(kWarp* kWarps)
    add_shares(const T* __restrict__ shares, int64_t count, int hidden, T* __restrict__ of_weight) {
  __shared__ double sums[kWarps][kWarp];
  const int unit = blockIdx.x * kWarp + threadIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.y; unit < hidden && i < count; i += kWarps) {
    sum += shares[i * hidden + unit];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && unit < hidden) {
    double total = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      total += sums[i][threadIdx.x];
    }
    of_weight[unit] = static_cast<T>(total);
  }
}

std::tuple<Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor embeddings, Tensor prototypes, Tensor weight, std::optional<Tensor> seed, double slope,
    int64_t dropped) {
  check("similarity_backward", embeddings, prototypes, weight, seed, dropped);
  STD_TORCH_CHECK(
      grad.dim() == 2 && grad.size(0) == embeddings.size(0) && grad.size(1) == prototypes.size(0) &&
          grad.scalar_type() == weight.scalar_type(),
      "similarity_backward: expected grad [B, C] of the weight's dtype");
  check_device("similarity_backward", embeddings, {&grad});
  const Device device(embeddings);
  const ScalarType type = weight.scalar_type();
  const Tensor g = as_contiguous(grad), w = as_contiguous(weight);
  const Tensor e = as_type(embeddings, type), c = as_type(prototypes, type);
  Tensor grad_e = torch::stable::empty_like(e), grad_c = torch::stable::empty_like(c);
  Tensor grad_w = torch::stable::empty_like(w);
  const Dropout dropout(dropped);
  const auto of_e = draws_of(device, e, seed, Side::embeddings, dropout);
  const auto of_c = draws_of(device, c, seed, Side::prototypes, dropout);
  const int64_t rows = e.size(0), items = c.size(0), hidden = e.size(1), words = divide_up(hidden, kUnits);
  const int64_t of_rows = divide_up(rows, kBlock), of_items = divide_up(items, kBlock);
  Tensor shares = new_empty_like_type(w, {of_rows + of_items, hidden}, type);
  dispatch_wide(type, dropped > 0, [&](auto zero, auto is_dropped) {
    using T = decltype(zero);
    auto run = [&](const Items<T>& own, const Items<T>& other, int64_t row_stride, int64_t item_stride, Tensor& out,
                   int64_t share) {
      const int64_t blocks = divide_up(own.count, kBlock);
      for (int64_t first = 0; first < blocks; first += kMostRows) {
        launch(
            device, add_side<T, is_dropped.value>, words, std::min(kMostRows, blocks - first), dim3(kWarp, kWarps), own,
            other, data<T>(w), static_cast<int>(hidden), static_cast<T>(slope), dropout, data<T>(g), row_stride,
            item_stride, mutable_data<T>(out), mutable_data<T>(shares) + share * hidden, static_cast<int>(first));
      }
    };
    const Items<T> left = items_of<T>(e, of_e), right = items_of<T>(c, of_c);
    run(left, right, items, 1, grad_e, 0);
    run(right, left, 1, items, grad_c, of_rows);
    launch(
        device, add_shares<T>, words, 1, dim3(kWarp, kWarps), data<T>(shares), of_rows + of_items,
        static_cast<int>(hidden), mutable_data<T>(grad_w));
  });
  return {as_type(grad_e, embeddings.scalar_type()), as_type(grad_c, prototypes.scalar_type()), grad_w};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("similarity_backward", TORCH_BOX(&robustdml::backward));
}
