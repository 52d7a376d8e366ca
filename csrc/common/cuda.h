// What every CUDA kernel needs: the device and stream of a tensor, checked launches, 16-byte loads, sums over a block.
#pragma once

#include "host_device.h"
#include "tensor.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

namespace robustdml::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int64_t kMostBlocks = std::numeric_limits<int32_t>::max(); // of a grid's first dimension
constexpr int64_t kMostRows = 65535;                                  // of its second

// Makes the tensor's device the current one as long as it lives, and knows the stream that PyTorch works on there.
class Device {
 public:
  explicit Device(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {
    // This library has a CUDA runtime of its own, which need not have seen the guard's switch.
    STD_CUDA_CHECK(cudaSetDevice(index_));
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const {
    return stream_;
  }
  int64_t multiprocessors() const {
    int count = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index_));
    return count;
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Kernels follow pointers: all of an operator's tensors must lie on one device.
inline void check_device(const char* name, const Tensor& model, std::initializer_list<const Tensor*> others) {
  for (const Tensor* other : others) {
    STD_TORCH_CHECK(
        other->is_cuda() && other->get_device_index() == model.get_device_index(), name,
        ": all tensors must be on one CUDA device");
  }
}

inline void check_device(const char* name, const Tensor& model, const std::optional<Tensor>& other) {
  if (other) {
    check_device(name, model, {&*other});
  }
}

// Starts `kernel` on blocks × rows blocks; none where there is nothing to do.
template <typename... Parameters, typename... Arguments>
void launch(
    const Device& device, void (*kernel)(Parameters...), int64_t blocks, int64_t rows, dim3 threads,
    const Arguments&... arguments) {
  if (blocks <= 0 || rows <= 0) {
    return;
  }
  STD_TORCH_CHECK(blocks <= kMostBlocks && rows <= kMostRows, "robustdml: too large a tensor for one CUDA grid");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(rows));
  kernel<<<grid, threads, 0, device.stream()>>>(static_cast<Parameters>(arguments)...);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

ROBUSTDML_HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// ------------------------------------------------------------------------------------- 16-byte accesses

template <typename scalar_t>
constexpr int kVector = 16 / sizeof(scalar_t);

template <typename scalar_t, int count>
struct alignas(sizeof(scalar_t) * count) Vector {
  scalar_t values[count];

  __device__ accumulate_t<scalar_t> operator[](int i) const {
    return static_cast<accumulate_t<scalar_t>>(values[i]);
  }
  __device__ void set(int i, accumulate_t<scalar_t> value) {
    values[i] = static_cast<scalar_t>(value);
  }
};

// Reads and writes `count` values at a place that is aligned for all of them at once.
template <int count, typename scalar_t>
__device__ __forceinline__ Vector<scalar_t, count> load(const scalar_t* from) {
  return *reinterpret_cast<const Vector<scalar_t, count>*>(from);
}

template <typename scalar_t, int count>
__device__ __forceinline__ void store(scalar_t* to, const Vector<scalar_t, count>& vector) {
  *reinterpret_cast<Vector<scalar_t, count>*>(to) = vector;
}

template <typename... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls body(std::integral_constant<int, values per access>).
template <typename scalar_t, typename Body>
decltype(auto) dispatch_vector(bool vectors, Body&& body) {
  if (vectors) {
    return body(std::integral_constant<int, kVector<scalar_t>>{});
  }
  return body(std::integral_constant<int, 1>{});
}

// ------------------------------------------------------------------------------------------- reductions

// The same sum in all lanes, added in the same order at every run. All 32 lanes must call.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, offset);
  }
  return value;
}

template <typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// The sums of `count` numbers over a one-dimensional block of whole warps, valid in thread 0 alone.
// All threads must call; a second call needs a __syncthreads() in between.
template <int count, typename T>
__device__ __forceinline__ void block_sum(T (&values)[count]) {
  __shared__ T of_warps[count][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = warp_sum(values[i]);
    if (lane == 0) {
      of_warps[i][warp] = values[i];
    }
  }
  __syncthreads();
  if (warp == 0) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      values[i] = warp_sum(lane < warps ? of_warps[i][lane] : T(0));
    }
  }
}

} // namespace robustdml::cuda
