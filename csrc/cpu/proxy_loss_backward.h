// The backward pass: a block's cosines anew, turned into gradients and multiplied at once. Its proxies are read once
// and their gradients written once; gradients of the embeddings are summed a group of classes, and added up in order.
#pragma once

#include "proxy_loss_problem.h"
#include "proxy_loss_rules.h"

namespace robustdml::proxy {

// Gradients of a chunk of the embeddings, and its share of the proxies' gradients.
template <typename scalar_t>
struct Backward {
  using T = accumulate_t<scalar_t>;
  const Problem<scalar_t>& problem;
  const T* statistics;
  T gradient;
  int64_t present;            // classes with an embedding
  scalar_t* to_embeddings;    // [B, D], or null
  scalar_t* to_proxies;       // [C, D], or null

  // `sums`: gradients of blocks kept from chunk to chunk, null where there is one chunk.
  void chunk(int64_t first, int64_t count, bool opens, bool closes, T* sums) const {
    const Plan& plan = problem.plan;
    const Embeddings<T> unit(plan, problem.embeddings, first, count, true);
    const int64_t columns = round_up(plan.depth, kColumns<T>);
    const int64_t partial = unit.padded * columns, of_block = kClasses * columns;
    Buffer<T> partials(to_embeddings ? plan.groups * partial : 0);
    const bool softmax = problem.kind != Kind::proxy_anchor;
    // The embeddings' statistics, in the places of their tiles.
    const int64_t places = round_up(count, plan.tile) / plan.tile * kStride;
    Buffer<T> pool(softmax ? 2 * places : 0);
    for (int64_t i = 0; softmax && i < 2 * places; ++i) {
      const int64_t row = first + i % places / kStride * plan.tile + i % kStride;
      const bool there = i % kStride < plan.tile && row < first + count;
      pool[i] = there ? statistics[i / places * plan.embeddings + row] : T(0);
    }
    const Softmax<T> rows(problem.kind, problem.scale, problem.margin);
    const ProxyAnchor<T> anchors(problem.scale, problem.margin);
    const double slope = static_cast<double>(gradient) * problem.scale;
    const T row_weight = static_cast<T>(slope / static_cast<double>(plan.embeddings));
    const T pull_weight = static_cast<T>(slope / static_cast<double>(present));
    const T push_weight = static_cast<T>(slope / static_cast<double>(plan.classes));

    run_tasks(plan.groups, 3 * problem.work(), [&](int64_t begin, int64_t end) {
      Buffer<T> directions(of_block), own(to_proxies && !sums ? of_block : 0);
      for (int64_t group = begin; to_embeddings && group < end; ++group) {
        std::fill_n(partials.get() + group * partial, partial, T(0));
      }
      auto to_block = [&](const Classes<T>& classes) {
        return sums ? sums + classes.begin / plan.block * of_block : own.get();
      };
      problem.blocks(
          unit, begin, end,
          [&](int64_t, const Classes<T>& classes) {
            for (int64_t c = 0; c < classes.count; ++c) {
              pack_unit_row(classes.row(c), classes.inverse[c], c, kClasses, plan.depth, directions.get());
            }
            if (to_proxies && opens) {
              std::fill_n(to_block(classes), of_block, T(0));
            }
          },
          [&](int64_t group, const Classes<T>& classes, int64_t t, T* tile, int64_t width) {
            const int64_t row = t * plan.tile;
            const int64_t* labels = problem.labels + first + row;
            if (softmax) {
              rows.differentiate(
                  tile, width, classes, labels, pool.get() + t * kStride, pool.get() + places + t * kStride,
                  row_weight);
            } else {
              anchors.differentiate(
                  tile, width, classes, labels, statistics + classes.begin,
                  statistics + plan.classes + classes.begin, pull_weight, push_weight);
            }
            if (to_proxies) {
              gemm::add_weighted<T, kStride, false>(
                  tile, classes.count, width, unit.columns.get() + row * kColumns<T>, unit.padded,
                  to_block(classes), kClasses, plan.depth);
            }
            if (to_embeddings) {
              gemm::add_weighted<T, kStride, true>(
                  tile, width, classes.count, directions.get(), kClasses,
                  partials.get() + group * partial + row * kColumns<T>, unit.padded, plan.depth);
            }
          },
          [&](int64_t, const Classes<T>& classes) {
            for (int64_t c = 0; to_proxies && closes && c < classes.count; ++c) {
              finish_row(
                  directions.get(), kClasses, to_block(classes), kClasses, c, classes.inverse[c], plan.depth,
                  to_proxies + (classes.begin + c) * plan.depth);
            }
          });
    });
    if (to_embeddings) {
      add_up(unit, partials.get(), partial, first);
    }
  }

  void add_up(const Embeddings<T>& unit, T* partials, int64_t partial, int64_t first) const {
    const Plan& plan = problem.plan;
    parallel_tasks(unit.count, plan.groups * plan.depth, [&](int64_t i) {
      for (int64_t k = 0; k < plan.depth; k += kColumns<T>) {
        T* total = partials + gemm::column_panel_index<T>(unit.padded, i, k);
        for (int64_t group = 1; group < plan.groups; ++group) {
#pragma omp simd
          for (int64_t j = 0; j < kColumns<T>; ++j) {
            total[j] += total[group * partial + j];
          }
        }
      }
      finish_row(
          unit.columns.get(), unit.padded, partials, unit.padded, i, unit.inverse[i], plan.depth,
          to_embeddings + (first + i) * plan.depth);
    });
  }

  void run() const {
    const Plan& plan = problem.plan;
    const int64_t row = plan.groups * round_up(plan.depth + 1, kColumns<T>) * static_cast<int64_t>(sizeof(T));
    const int64_t chunk_rows = std::max<int64_t>(kPartialBytes / row / plan.tile, 4) * plan.tile;
    if (plan.embeddings == 0 && to_proxies) {
      std::fill_n(to_proxies, plan.classes * plan.depth, scalar_t(0.0f));
    }
    Buffer<T> sums;
    if (chunk_rows < plan.embeddings && to_proxies) {
      sums = Buffer<T>(plan.blocks * kClasses * round_up(plan.depth, kColumns<T>));
    }
    for (int64_t first = 0; first < plan.embeddings; first += chunk_rows) {
      const int64_t count = std::min(chunk_rows, plan.embeddings - first);
      chunk(first, count, first == 0, first + count == plan.embeddings, sums.size() ? sums.get() : nullptr);
    }
  }
};

} // namespace robustdml::proxy
