// One call of a proxy loss, and how its tasks walk over blocks of classes.
#pragma once

#include "proxy_loss.h"

namespace robustdml::proxy {

// Multiply-adds that are worth a thread of their own.
constexpr int64_t kWorth = int64_t{1} << 18;

// run(begin, end) over tasks, with scratch memory of its own for every thread that takes some.
template <typename Run>
void run_tasks(int64_t count, int64_t work, const Run& run) {
  if (count <= 1 || work < 2 * kWorth) {
    run(0, count);
  } else {
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, count * kWorth / work), run);
  }
}

template <typename scalar_t>
struct Problem {
  using T = accumulate_t<scalar_t>;
  Plan plan;
  const scalar_t* embeddings; // [B, D]
  const scalar_t* proxies;    // [C, D]
  const int64_t* labels;      // [B]
  Kind kind;
  double scale, margin;

  int64_t work() const {
    return plan.embeddings * plan.classes * (plan.depth + 16);
  }

  // each(group, classes, tile index, tile, columns) for the tiles of groups [begin, end), a block of classes at a
  // time; `opens` and `closes` are called before and after a block.
  template <typename Open, typename Each, typename Close>
  void blocks(
      const Embeddings<T>& unit, int64_t begin, int64_t end, const Open& opens, const Each& each,
      const Close& closes) const {
    Classes<T> classes(plan.depth);
    Buffer<T> tile(kClasses * kStride);
    tile.fill(T(0));
    for (int64_t group = begin; group < end; ++group) {
      for (int64_t first = plan.begin_of_group(group); first < plan.begin_of_group(group + 1); first += plan.block) {
        classes.read(proxies, first, std::min(plan.block, plan.begin_of_group(group + 1) - first));
        opens(group, classes);
        for (int64_t t = 0; t * plan.tile < unit.count; ++t) {
          const int64_t columns = std::min(plan.tile, unit.count - t * plan.tile);
          classes.products(unit.tile_at(t), columns, tile.get());
          each(group, classes, t, tile.get(), columns);
        }
        closes(group, classes);
      }
    }
  }
};

} // namespace robustdml::proxy
