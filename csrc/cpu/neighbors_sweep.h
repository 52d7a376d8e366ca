// Which tiles of scores are computed, in which order, and by which thread. A visitor looks at each while it is in
// cache.
//
// A visitor has:  Scratch                         what one thread keeps between tiles
//                 start(scratch, row, rows)       a task begins on these rows
//                 rows(scratch, tile, list)       the tile's rows look for items among its columns
//                 both(scratch, tile)             and its columns among its rows
//                 finish(scratch, list)           the task's end
// where a query may have several lists, one for each part of the gallery.
#pragma once

#include "neighbors_rows.h"

namespace robustdml::nearest {

// Tiles along the side of one task's square: enough that what it loads is used several times, few enough tiles
// that many threads find work.
constexpr int64_t kBlockTiles = 4;
constexpr int64_t kManyTasks = 64;

inline int64_t block_tiles(int64_t tiles) {
  return std::clamp<int64_t>(tiles / kManyTasks, 1, kBlockTiles);
}

// Where there are few queries, parts of the gallery are searched side by side.
inline int64_t gallery_parts(int64_t queries, int64_t items) {
  const int64_t tiles = tiles_of(queries), step = block_tiles(tiles);
  const int64_t blocks = std::max<int64_t>((tiles + step - 1) / step, 1);
  return std::clamp<int64_t>(kManyTasks / blocks, 1, std::max<int64_t>(tiles_of(items) / 8, 1));
}

template <typename T>
constexpr int64_t tile_work(int64_t depth) {
  return kTile * kTile * (depth / 16 + 1);
}

// Every pair of rows once. Rounds of a round-robin tournament between blocks of rows: within a round no block
// appears twice, so its tasks may write to the lists of both their blocks.
template <typename T, typename Visitor>
void sweep_pairs(const Rows<T>& rows, bool euclidean, const Visitor& visitor) {
  const int64_t tiles = rows.tiles(), step = block_tiles(tiles), blocks = (tiles + step - 1) / step;
  const int64_t work = step * step * tile_work<T>(rows.depth);
  auto meet = [&](int64_t a, int64_t b) {
    typename Visitor::Scratch scratch;
    gemm::Buffer<T> scores(kTile * kTile);
    const int64_t end_a = std::min(tiles, (a + 1) * step), end_b = std::min(tiles, (b + 1) * step);
    visitor.start(scratch, a * step * kTile, std::min(rows.count, end_a * kTile) - a * step * kTile);
    for (int64_t j = b * step; j < end_b; ++j) {
      for (int64_t i = a * step; i < (a == b ? j + 1 : end_a); ++i) {
        const Tile<T> tile = score_tile(rows, i, rows, j, scores.get(), euclidean, true);
        if (i == j) {
          visitor.rows(scratch, tile, 0);
        } else {
          visitor.both(scratch, tile);
        }
      }
    }
    visitor.finish(scratch, 0);
  };
  parallel_tasks(blocks, work, [&](int64_t block) { meet(block, block); });
  const int64_t players = blocks + blocks % 2, wheel = players - 1;
  for (int64_t round = 0; round < wheel && blocks > 1; ++round) {
    parallel_tasks(players / 2, work, [&](int64_t pair) {
      const int64_t a = pair == 0 ? players - 1 : (round + pair) % wheel;
      const int64_t b = (round + wheel - pair) % wheel;
      if (std::max(a, b) < blocks) {
        meet(std::min(a, b), std::max(a, b));
      }
    });
  }
}

// Every query with every item; list number part·queries + query is written by one task alone.
template <typename T, typename Visitor>
void sweep_gallery(
    const Rows<T>& queries, const Rows<T>& items, bool euclidean, bool exclude_self, const Visitor& visitor) {
  const int64_t tiles = queries.tiles(), step = block_tiles(tiles), blocks = (tiles + step - 1) / step;
  const int64_t parts = gallery_parts(queries.count, items.count);
  const int64_t part_tiles = (items.tiles() + parts - 1) / parts;
  parallel_tasks(blocks * parts, step * part_tiles * tile_work<T>(queries.depth), [&](int64_t task) {
    const int64_t block = task / parts, part = task % parts;
    typename Visitor::Scratch scratch;
    gemm::Buffer<T> scores(kTile * kTile);
    const int64_t first = block * step, end = std::min(tiles, first + step);
    visitor.start(scratch, first * kTile, std::min(queries.count, end * kTile) - first * kTile);
    for (int64_t j = part * part_tiles; j < std::min(items.tiles(), (part + 1) * part_tiles); ++j) {
      for (int64_t i = first; i < end; ++i) {
        visitor.rows(
            scratch, score_tile(queries, i, items, j, scores.get(), euclidean, exclude_self),
            part * queries.count);
      }
    }
    visitor.finish(scratch, part * queries.count);
  });
}

}  // namespace robustdml::nearest
