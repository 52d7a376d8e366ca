// Losses of embeddings against class proxies: neither pass holds more of the [B, C] cosines than a tile.
//
// Every task takes a group of classes. The forward pass keeps, for each embedding or each class, what its log Σ exp
// needs; the backward pass makes the cosines anew.
#include "proxy_loss_backward.h"

#include <string>

namespace robustdml {
namespace {

using namespace proxy;

// ------------------------------------------------------------------------------------------------------------ forward

// statistics [2, B]: log Σ exp of the logits, and the loss, of every embedding.
template <typename scalar_t, typename T>
double softmax_forward(const Problem<scalar_t>& p, const Embeddings<T>& unit, T* statistics) {
  const Plan& plan = p.plan;
  const Softmax<T> rule(p.kind, p.scale, p.margin);
  const int64_t padded = plan.tiles * kStride;
  Buffer<T> largest(plan.groups * padded), targets(plan.embeddings);
  Buffer<double> sums(plan.groups * padded);
  largest.fill(std::numeric_limits<T>::lowest());
  sums.fill(0);
  run_tasks(plan.groups, p.work(), [&](int64_t begin, int64_t end) {
    auto nothing = [](int64_t, const Classes<T>&) {};
    p.blocks(
        unit, begin, end, nothing,
        [&](int64_t group, const Classes<T>& classes, int64_t t, T* tile, int64_t columns) {
          const int64_t at = group * padded + t * kStride, row = t * plan.tile;
          rule.collect(
              tile, columns, classes, p.labels + row, largest.get() + at, sums.get() + at, targets.get() + row);
        },
        nothing);
  });
  parallel_tasks(plan.tiles, plan.tile * plan.groups * 16, [&](int64_t t) {
    for (int64_t j = 0; j < plan.rows_of(t); ++j) {
      const int64_t row = t * plan.tile + j, at = t * kStride + j;
      T most = largest[at];
      for (int64_t group = 1; group < plan.groups; ++group) {
        most = std::max(most, largest[group * padded + at]);
      }
      double others = 0;
      for (int64_t group = 0; group < plan.groups; ++group) {
        others += sums[group * padded + at] *
            std::exp(static_cast<double>(largest[group * padded + at]) - static_cast<double>(most));
      }
      const double logit = static_cast<double>(rule.scale) * static_cast<double>(rule.target(targets[row]).value);
      const double excess = static_cast<double>(most) + std::log(others) - logit;
      const double loss = excess > 0 ? excess + std::log1p(std::exp(-excess)) : std::log1p(std::exp(excess));
      statistics[row] = static_cast<T>(logit + loss);
      statistics[plan.embeddings + row] = static_cast<T>(loss);
    }
  });
  double total = 0;
  for (int64_t row = 0; row < plan.embeddings; ++row) {
    total += static_cast<double>(statistics[plan.embeddings + row]);
  }
  return total / static_cast<double>(plan.embeddings);
}

// statistics [2, C]: log(1 + Σ exp) over the positives, and over the negatives, of every class.
template <typename scalar_t, typename T>
double anchor_forward(const Problem<scalar_t>& p, const Embeddings<T>& unit, T* statistics) {
  const Plan& plan = p.plan;
  const ProxyAnchor<T> rule(p.scale, p.margin);
  struct Total {
    double pull = 0, push = 0;
    int64_t present = 0;
  };
  std::vector<Total> totals(plan.groups);
  run_tasks(plan.groups, p.work(), [&](int64_t begin, int64_t end) {
    Sum<T> pull[kClasses], push[kClasses];
    int64_t positives[kClasses];
    p.blocks(
        unit, begin, end,
        [&](int64_t, const Classes<T>&) {
          std::fill_n(pull, kClasses, Sum<T>{0, 0});
          std::fill_n(push, kClasses, Sum<T>{0, 0});
          std::fill_n(positives, kClasses, 0);
        },
        [&](int64_t, const Classes<T>& classes, int64_t t, T* tile, int64_t columns) {
          rule.collect(tile, columns, classes, p.labels + t * plan.tile, pull, push, positives);
        },
        [&](int64_t group, const Classes<T>& classes) {
          Total& total = totals[group];
          for (int64_t c = 0; c < classes.count; ++c) {
            const double pulls = pull[c].log_one_plus(), pushes = push[c].log_one_plus();
            statistics[classes.begin + c] = static_cast<T>(pulls);
            statistics[plan.classes + classes.begin + c] = static_cast<T>(pushes);
            total.pull += pulls;
            total.push += pushes;
            total.present += positives[c] > 0;
          }
        });
  });
  Total all;
  for (const Total& total : totals) {
    all = {all.pull + total.pull, all.push + total.push, all.present + total.present};
  }
  return all.pull / static_cast<double>(all.present) + all.push / static_cast<double>(plan.classes);
}

// ------------------------------------------------------------------------------------------------------ the operators

// What both operators are given.
struct Arguments {
  Tensor embeddings, proxies, labels;
  Kind kind;

  Arguments(const Tensor& e, const Tensor& p, const Tensor& y, const std::string& name)
      : embeddings(as_contiguous(e)), proxies(as_contiguous(p)), labels(as_contiguous(y)) {
    STD_TORCH_CHECK(
        e.dim() == 2 && p.dim() == 2 && y.dim() == 1 && p.size(1) == e.size(1) && y.size(0) == e.size(0) &&
            y.scalar_type() == ScalarType::Long && e.scalar_type() == p.scalar_type(),
        "proxy_loss: expected embeddings [B, D] and proxies [C, D] of one dtype and int64 labels [B]");
    STD_TORCH_CHECK(parse(name, kind), "proxy_loss: no kind ", name);
    const int64_t* values = data<int64_t>(labels);
    for (int64_t i = 0; i < labels.numel(); ++i) {
      STD_TORCH_CHECK(
          values[i] >= 0 && values[i] < p.size(0), "proxy_loss: label ", values[i], " is none of ", p.size(0),
          " classes");
    }
  }

  std::vector<int64_t> statistics_shape() const {
    return {2, kind == Kind::proxy_anchor ? proxies.size(0) : embeddings.size(0)};
  }

  template <typename scalar_t>
  Problem<scalar_t> problem(double scale, double margin) const {
    return {
        Plan(embeddings.size(0), proxies.size(0), embeddings.size(1)),
        data<scalar_t>(embeddings),
        data<scalar_t>(proxies),
        data<int64_t>(labels),
        kind,
        scale,
        margin};
  }

  int64_t present() const {
    std::vector<bool> seen(proxies.size(0));
    for (int64_t i = 0; i < labels.numel(); ++i) {
      seen[data<int64_t>(labels)[i]] = true;
    }
    return std::count(seen.begin(), seen.end(), true);
  }
};

std::tuple<Tensor, Tensor> proxy_loss(
    Tensor embeddings, Tensor proxies, Tensor labels, std::string kind, double scale, double margin) {
  const Arguments arguments(embeddings, proxies, labels, kind);
  const ScalarType type = accumulate_type(embeddings.scalar_type());
  Tensor loss = new_empty_like_type(embeddings, {}, type);
  Tensor statistics = new_empty_like_type(embeddings, arguments.statistics_shape(), type);
  dispatch_floating(embeddings.scalar_type(), "proxy_loss", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    using T = accumulate_t<scalar_t>;
    const auto problem = arguments.problem<scalar_t>(scale, margin);
    T* values = mutable_data<T>(statistics);
    const Embeddings<T> unit(problem.plan, problem.embeddings, 0, problem.plan.embeddings, false);
    *mutable_data<T>(loss) = static_cast<T>(
        arguments.kind == Kind::proxy_anchor ? anchor_forward(problem, unit, values)
                                             : softmax_forward(problem, unit, values));
  });
  return {loss, statistics};
}

std::tuple<Tensor, Tensor> proxy_loss_backward(
    Tensor gradient, Tensor embeddings, Tensor proxies, Tensor labels, Tensor statistics, std::string kind,
    double scale, double margin, bool wants_embeddings, bool wants_proxies) {
  const Arguments arguments(embeddings, proxies, labels, kind);
  const ScalarType type = accumulate_type(embeddings.scalar_type());
  const std::vector<int64_t> shape = arguments.statistics_shape();
  STD_TORCH_CHECK(
      gradient.numel() == 1 && gradient.scalar_type() == type && statistics.scalar_type() == type &&
          statistics.dim() == 2 && statistics.size(0) == shape[0] && statistics.size(1) == shape[1],
      "proxy_loss_backward: expected a scalar gradient and what proxy_loss gave");
  const Tensor pools = as_contiguous(statistics);
  const int64_t depth = embeddings.size(1);
  Tensor to_embeddings =
      new_empty_like_type(embeddings, {wants_embeddings ? embeddings.size(0) : 0, depth}, embeddings.scalar_type());
  Tensor to_proxies =
      new_empty_like_type(embeddings, {wants_proxies ? proxies.size(0) : 0, depth}, embeddings.scalar_type());
  dispatch_floating(embeddings.scalar_type(), "proxy_loss_backward", [&](auto of) {
    using scalar_t = typename decltype(of)::type;
    using T = accumulate_t<scalar_t>;
    const auto problem = arguments.problem<scalar_t>(scale, margin);
    const Backward<scalar_t> backward{
        problem,
        data<T>(pools),
        *data<T>(gradient),
        arguments.kind == Kind::proxy_anchor ? arguments.present() : 0,
        wants_embeddings ? mutable_data<scalar_t>(to_embeddings) : nullptr,
        wants_proxies ? mutable_data<scalar_t>(to_proxies) : nullptr};
    backward.run();
  });
  return {to_embeddings, to_proxies};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CPU, library) {
  library.impl("proxy_loss", TORCH_BOX(&robustdml::proxy_loss));
  library.impl("proxy_loss_backward", TORCH_BOX(&robustdml::proxy_loss_backward));
}
