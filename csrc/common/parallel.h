// CPU threads and stores. Work is cut by shape alone, never by the number of threads, so results do not depend on it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace robustdml {

// Elements that are worth a thread of their own.
constexpr int64_t kElementsPerThread = 32768;

// Tasks of `elements` elements each: how many of them one thread should take at least.
inline int64_t grain(int64_t elements) {
  return elements >= kElementsPerThread ? 1 : kElementsPerThread / (elements > 0 ? elements : 1) + 1;
}

// Streamed stores are visible to other threads only after a fence.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Calls task(i) for i in [0, count), on several threads where that pays.
template <typename Task>
void parallel_tasks(int64_t count, int64_t elements_per_task, const Task& task) {
  const int64_t least = grain(elements_per_task);
  auto run = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      task(i);
    }
    stream_fence();
  };
  if (count <= least) {
    run(0, count);
  } else {
    torch::stable::parallel_for(0, count, least, run);
  }
}

// Results past this size do not stay in cache until they are read again: writing them around it saves the read
// that an ordinary store begins with, a quarter of the traffic of a step over images.
constexpr int64_t kStreamedBytes = int64_t{8} << 20;
// Shorter runs share their first and last line with their neighbors, which costs more than it saves.
constexpr int64_t kStreamedRun = 512;

// Copies a block that lies in L1 to memory, around the caches.
inline void stream_copy(void* destination, const void* source, size_t bytes) {
#if defined(__SSE2__)
  constexpr size_t line = 64;
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  const size_t head = (line - reinterpret_cast<uintptr_t>(to) % line) % line;
  if (bytes < head + line) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::memcpy(to, from, head);
  size_t i = head;
  for (; i + line <= bytes; i += line) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#elif defined(__AVX__)
    for (size_t j = i; j < i + line; j += 32) {
      _mm256_stream_si256(
          reinterpret_cast<__m256i*>(to + j), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + j)));
    }
#else
    for (size_t j = i; j < i + line; j += 16) {
      _mm_stream_si128(
          reinterpret_cast<__m128i*>(to + j), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + j)));
    }
#endif
  }
  std::memcpy(to + i, from + i, bytes - i);
#else
  std::memcpy(destination, source, bytes);
#endif
}

} // namespace robustdml
