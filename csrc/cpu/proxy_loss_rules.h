// What each proxy loss does with a tile of products while it is in cache: what it keeps of it, and the gradient it
// turns it into. Tiles are [class][embedding]; an embedding's own class is one entry a column, worked on alone.
#pragma once

#include "proxy_loss.h"

#include <cmath>
#include <limits>

namespace robustdml::proxy {

// Calls body(embedding of the tile, class of the block, its entry of the tile) where an embedding's class is among
// these.
template <typename T, typename Body>
void for_targets(const int64_t* labels, int64_t columns, const Classes<T>& classes, T* tile, const Body& body) {
  for (int64_t j = 0; j < columns; ++j) {
    const int64_t c = labels[j] - classes.begin;
    if (c >= 0 && c < classes.count) {
      body(j, c, tile[c * kStride + j]);
    }
  }
}

// Σ exp(xⱼ) of numbers that come in parts, as (largest, Σ exp(xⱼ − largest)).
template <typename T>
struct Sum {
  T largest;
  double rest;

  void add(T value) {
    if (value > largest) {
      rest = rest * std::exp(static_cast<double>(largest - value)) + 1;
      largest = value;
    } else {
      rest += std::exp(static_cast<double>(value - largest));
    }
  }
  // log(1 + Σ exp xⱼ), for largest ≥ 0.
  double log_one_plus() const {
    const double x = static_cast<double>(largest);
    return x == 0 ? std::log1p(rest) : x + std::log(rest + std::exp(-x));
  }
};

// --------------------------------------------------------------------------------------------- softmax over classes

// −log softmax over classes at the own class, whose cosine ArcFace widens first.
template <typename T>
struct Softmax {
  T scale;
  bool widens;
  Margin<T> margin;

  Softmax(Kind kind, double scale, double margin)
      : scale(static_cast<T>(scale)), widens(kind == Kind::arcface), margin(margin) {}

  Widened<T> target(T cosine) const {
    return widens ? widen(margin, cosine) : Widened<T>{cosine, T(1)};
  }

  // Adds the other classes' logits to the sums of the embeddings, and sets the own class's cosine aside.
  // largest, sums: [kStride], targets: [columns].
  void collect(
      T* tile, int64_t columns, const Classes<T>& classes, const int64_t* labels, T* largest, double* sums,
      T* targets) const {
    using V = simd::Vector<T>;
    for_targets(labels, columns, classes, tile, [&](int64_t j, int64_t c, T& entry) {
      targets[j] = entry * classes.factor[c];
      entry = -std::numeric_limits<T>::infinity();
    });
    T factor[kClasses];
    for (int64_t c = 0; c < classes.count; ++c) {
      factor[c] = scale * classes.factor[c];
    }
    for (int64_t j = 0; j < columns; j += kLanes<T>) {
      const V before = simd::load<T>(largest + j);
      V most = before;
      for (int64_t c = 0; c < classes.count; ++c) {
        most = simd::maximum(most, simd::load<T>(tile + c * kStride + j) * factor[c]);
      }
      V sum{};
      for (int64_t c = 0; c < classes.count; ++c) {
        sum += simd::exp(simd::load<T>(tile + c * kStride + j) * factor[c] - most);
      }
      const V shrink = simd::exp(before - most);
      simd::store(largest + j, most);
      for (int lane = 0; lane < kLanes<T>; ++lane) {
        sums[j + lane] = sums[j + lane] * static_cast<double>(shrink[lane]) + static_cast<double>(sum[lane]);
      }
    }
  }

  // Turns products into the gradient towards cosines. pool, losses: log Σ exp of all logits and the loss of each
  // embedding, [kStride]; weight: what a probability counts.
  void differentiate(
      T* tile, int64_t columns, const Classes<T>& classes, const int64_t* labels, const T* pool, const T* losses,
      T weight) const {
    T own[kStride];
    for_targets(labels, columns, classes, tile, [&](int64_t j, int64_t c, T& entry) {
      own[j] = entry * classes.factor[c];
    });
    for (int64_t c = 0; c < classes.count; ++c) {
      const T factor = scale * classes.factor[c];
      for (int64_t j = 0; j < columns; j += kLanes<T>) {
        T* at = tile + c * kStride + j;
        simd::store(at, simd::exp(simd::load<T>(at) * factor - simd::load<T>(pool + j)) * weight);
      }
    }
    // p − 1 from the loss −log p: exact where p is close to 1.
    for_targets(labels, columns, classes, tile, [&](int64_t j, int64_t, T& entry) {
      entry = weight * std::expm1(-losses[j]) * target(own[j]).slope;
    });
  }
};

// ------------------------------------------------------------------------------------------------------ proxy-anchor

// log(1 + Σ exp) over the batch for every class, of its positives and of its negatives.
template <typename T>
struct ProxyAnchor {
  T alpha, delta;

  ProxyAnchor(double alpha, double delta) : alpha(static_cast<T>(alpha)), delta(static_cast<T>(delta)) {}

  // pull, push: the sums of each class of the block so far; positives: how many.
  void collect(
      T* tile, int64_t columns, const Classes<T>& classes, const int64_t* labels, Sum<T>* pull, Sum<T>* push,
      int64_t* positives) const {
    using V = simd::Vector<T>;
    constexpr T nothing = -std::numeric_limits<T>::infinity();
    for_targets(labels, columns, classes, tile, [&](int64_t, int64_t c, T& entry) {
      pull[c].add(-alpha * (entry * classes.factor[c] - delta));
      ++positives[c];
      entry = nothing;
    });
    const T shift = alpha * delta;
    for (int64_t c = 0; c < classes.count; ++c) {
      T* row = tile + c * kStride;
      for (int64_t j = columns; j < round_up(columns, kLanes<T>); ++j) {
        row[j] = nothing;
      }
      const T factor = alpha * classes.factor[c];
      V most = simd::splat(push[c].largest);
      for (int64_t j = 0; j < columns; j += kLanes<T>) {
        most = simd::maximum(most, simd::load<T>(row + j) * factor + shift);
      }
      T largest = most[0];
      for (int lane = 1; lane < kLanes<T>; ++lane) {
        largest = most[lane] > largest ? most[lane] : largest;
      }
      V sums{};
      for (int64_t j = 0; j < columns; j += kLanes<T>) {
        sums += simd::exp(simd::load<T>(row + j) * factor + (shift - largest));
      }
      double sum = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) {
        sum += static_cast<double>(sums[lane]);
      }
      if (largest != push[c].largest) {
        push[c].rest *= std::exp(static_cast<double>(push[c].largest - largest));
        push[c].largest = largest;
      }
      push[c].rest += sum;
    }
  }

  // Turns products into the gradient towards cosines. pull, push: log(1 + Σ exp) of each class of the block.
  void differentiate(
      T* tile, int64_t columns, const Classes<T>& classes, const int64_t* labels, const T* pull, const T* push,
      T pull_weight, T push_weight) const {
    T own[kStride];
    for_targets(labels, columns, classes, tile, [&](int64_t j, int64_t c, T& entry) {
      own[j] = entry * classes.factor[c];
    });
    for (int64_t c = 0; c < classes.count; ++c) {
      const T factor = alpha * classes.factor[c], shift = alpha * delta - push[c];
      for (int64_t j = 0; j < columns; j += kLanes<T>) {
        T* at = tile + c * kStride + j;
        simd::store(at, simd::exp(simd::load<T>(at) * factor + shift) * push_weight);
      }
    }
    for_targets(labels, columns, classes, tile, [&](int64_t j, int64_t c, T& entry) {
      entry = -pull_weight * std::exp(-alpha * (own[j] - delta) - pull[c]);
    });
  }
};

} // namespace robustdml::proxy
