// How the kernels of `distribution_norm` cut a tensor into blocks: by shape alone, so results do not depend on the
// device. Everything a kernel must know travels as an argument; nothing waits for the host or is copied there.
//
// A tensor is a table [rows, columns]. A row is a pixel with all its channels (channels-last), or else a whole sample,
// in which `width` columns in a row, the pixels, share a channel. Elementwise kernels run over this table, a thread
// down one or a few columns. So do the reductions where a channel's columns fit a block; larger images are reduced
// plane by plane.
#pragma once

#include "../common/cuda.h"
#include "../common/distribution_norm.h"
#include "../common/norm_layout.h"

namespace robustdml::norm {

using namespace robustdml::cuda;

constexpr int kThreads = 256;
constexpr int kSegments = 16;          // segments of one launch; more take several
constexpr int64_t kReduceBlocks = 1024; // that a large reduction is cut into
constexpr int64_t kLeastVectors = 4096; // 64 KB, below which cutting a reduction costs more than it saves
constexpr int64_t kApplyBlocks = 2048;
constexpr int64_t kMostRowsPerThread = 16;
constexpr int64_t kSmallestPlaneBytes = 64; // two sectors of memory
constexpr int64_t kLargestWidth = kThreads;

// A run of units (rows of the table, or vectors of a channel's planes) inside one segment.
struct Piece {
  int segment;
  int64_t first, last;
};

// Up to kSegments segments, cut into pieces of `length` units, numbered through.
struct Partition {
  int segments;
  int first_segment; // of all K
  int64_t length;
  int64_t start[kSegments + 1]; // first unit of each segment, and the end
  int64_t piece[kSegments + 1]; // first piece of each segment, and how many there are

  __device__ Piece operator[](int64_t i) const {
    int s = 0;
    while (s + 1 < segments && i >= piece[s + 1]) {
      ++s;
    }
    const int64_t first = start[s] + (i - piece[s]) * length;
    return {s, first, min(first + length, start[s + 1])};
  }
  ROBUSTDML_HOST_DEVICE int64_t pieces() const {
    return piece[segments];
  }
  bool one_piece_each() const {
    return pieces() == segments;
  }
};

// keep_empty: an empty segment is one piece too, for there is something to write of it.
inline std::vector<Partition> partition(
    const std::vector<int64_t>& segments, int64_t units_per_sample, int64_t length, bool keep_empty) {
  std::vector<Partition> parts;
  int64_t start = 0;
  const int count = static_cast<int>(segments.size());
  for (int first = 0; first < count; first += kSegments) {
    Partition part{};
    part.segments = std::min(kSegments, count - first);
    part.first_segment = first;
    part.length = length;
    for (int s = 0; s < part.segments; ++s) {
      const int64_t units = segments[first + s] * units_per_sample, pieces = divide_up(units, length);
      part.start[s] = start;
      start += units;
      part.start[s + 1] = start;
      part.piece[s + 1] = part.piece[s] + (keep_empty ? std::max<int64_t>(pieces, 1) : pieces);
    }
    parts.push_back(part);
  }
  return parts;
}

// The table, and the tiles of columns that blocks of (x, y) threads take: a thread takes a vector of each row.
struct Table {
  int64_t columns, width, channels;
  int64_t tile, tiles; // columns of a tile; tiles of a row
};

// The planes of a channel, in vectors: unit u of channel c is vector u % plane of sample u / plane.
struct Planes {
  int64_t plane, channels; // plane >= 1
};

struct Geometry {
  bool planes; // reductions run over planes
  int vector;  // values of an access: of reductions
  Table table; // of reductions, unless over planes
  dim3 threads;
  int64_t units_per_sample, length;
  int64_t values_per_unit;
};

inline Table table_of(const Layout& layout) {
  Table table{};
  table.columns = layout.channels_last ? layout.channels : layout.channels * layout.pixels;
  table.width = layout.channels_last ? 1 : std::max<int64_t>(layout.pixels, 1);
  table.channels = layout.channels;
  return table;
}

inline int64_t power_of_two_up_to(int64_t value, int64_t most) {
  int64_t power = 1;
  while (power < value && power < most) {
    power *= 2;
  }
  return power;
}

// How to reduce over a tensor. `most`: values of a 16-byte access, 1 where pointers are not aligned.
inline Geometry reduction_geometry(const Layout& layout, int most, int64_t element_bytes) {
  Geometry g{};
  g.table = table_of(layout);
  const int64_t pixels = g.table.width, channels = std::max<int64_t>(layout.channels, 1);
  const bool empty = layout.samples * layout.pixels == 0; // planes of which there are none
  g.planes = !layout.channels_last &&
      (empty || pixels > kLargestWidth || (pixels % most == 0 && pixels * element_bytes >= kSmallestPlaneBytes));
  if (g.planes) {
    g.vector = pixels % most == 0 ? most : 1;
    g.units_per_sample = empty ? 0 : pixels / g.vector;
    g.values_per_unit = g.vector;
    g.threads = dim3(kThreads);
    g.length = std::max(kLeastVectors, divide_up(layout.samples * g.units_per_sample * channels, kReduceBlocks));
    return g;
  }
  g.vector = g.table.columns % most == 0 ? most : 1;
  g.units_per_sample = layout.channels_last ? layout.pixels : 1;
  g.values_per_unit = g.table.width;
  const int64_t rows = layout.samples * g.units_per_sample, width = g.table.width;
  if (width == 1) {
    // 128 bytes of each row where one block then takes a whole segment; else 512.
    const int64_t vectors = divide_up(g.table.columns, g.vector);
    const int64_t x = power_of_two_up_to(vectors, rows * 8 <= kLeastVectors ? 8 : 32);
    g.table.tile = x * g.vector;
  } else {
    // Whole channels, starting at a whole vector, of about 512 bytes at least.
    int64_t step = 1;
    while (step * width % g.vector != 0) {
      ++step; // at most g.vector, and width <= kLargestWidth: a tile is at most kThreads vectors
    }
    const int64_t wanted = divide_up(32 * g.vector, step * width);
    g.table.tile = std::min(wanted, divide_up(channels, step)) * step * width;
  }
  const int64_t x = divide_up(g.table.tile, g.vector);
  g.table.tiles = divide_up(g.table.columns, g.table.tile);
  g.threads = dim3(static_cast<unsigned>(x), static_cast<unsigned>(std::max<int64_t>(kThreads / x, 1)));
  g.length = std::max(
      std::max<int64_t>(divide_up(kLeastVectors, x), g.threads.y),
      divide_up(rows * g.table.tiles, kReduceBlocks));
  return g;
}

// How to go over all elements of a tensor.
inline Geometry elementwise_geometry(const Layout& layout, int most) {
  Geometry g{};
  g.table = table_of(layout);
  g.vector = g.table.columns % most == 0 ? most : 1;
  g.units_per_sample = layout.channels_last ? layout.pixels : 1;
  const int64_t vectors = g.table.columns / g.vector, rows = layout.samples * g.units_per_sample;
  const int64_t x = vectors >= 1024 ? kThreads : power_of_two_up_to(vectors, 64), y = kThreads / x;
  g.table.tile = x * g.vector;
  g.table.tiles = divide_up(g.table.columns, g.table.tile);
  g.threads = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
  const int64_t per_thread = divide_up(rows * g.table.tiles, y * kApplyBlocks);
  g.length = y * std::min(std::max<int64_t>(per_thread, 1), kMostRowsPerThread);
  return g;
}

} // namespace robustdml::norm
