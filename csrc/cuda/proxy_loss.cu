// The proxy losses on CUDA: strips of classes that stay in the L2 cache between the vendor's matrix products and our
// passes. No strip is kept: the backward pass makes its cosines anew.
#include "proxy_loss_kernels.cuh"

#include "../common/products.h"

#include <string>

namespace robustdml {
namespace {

using namespace proxy;

constexpr int64_t kStripBytes = int64_t{32} << 20; // of cosines, and of the strip's proxies
constexpr int64_t kFewestClasses = 256;            // of a strip

const dim3 kWarpRows(kWarp, kWarps);

struct Arguments {
  Tensor embeddings, proxies, labels;
  Kind kind;
  double scale, margin;
  int64_t batch, classes, depth;
  ScalarType type; // of everything between the operator's tensors
  bool anchor;

  Arguments(
      const Tensor& e, const Tensor& p, const Tensor& y, const std::string& name, double scale, double margin)
      : embeddings(as_contiguous(e)), proxies(as_contiguous(p)), labels(as_contiguous(y)), scale(scale),
        margin(margin) {
    STD_TORCH_CHECK(
        e.dim() == 2 && p.dim() == 2 && y.dim() == 1 && p.size(1) == e.size(1) && y.size(0) == e.size(0) &&
            y.scalar_type() == ScalarType::Long && e.scalar_type() == p.scalar_type(),
        "proxy_loss: expected embeddings [B, D] and proxies [C, D] of one dtype and int64 labels [B]");
    STD_TORCH_CHECK(parse(name, kind), "proxy_loss: no kind ", name);
    check_device("proxy_loss", e, {&e, &p, &y});
    batch = e.size(0);
    classes = p.size(0);
    depth = e.size(1);
    type = accumulate_type(e.scalar_type());
    anchor = kind == Kind::proxy_anchor;
  }

  Tensor empty(std::vector<int64_t> sizes) const {
    return new_empty_like_type(embeddings, std::move(sizes), type);
  }
  int64_t pooled() const {
    return anchor ? classes : batch;
  }
};

template <typename scalar_t>
class Pass {
 public:
  using T = accumulate_t<scalar_t>;

  Pass(const Arguments& arguments, const Device& device)
      : a(arguments), device(device), unit(a.empty({a.batch, a.depth})), inverse(a.empty({a.batch})) {
    const int64_t row = std::max<int64_t>({a.batch, a.depth, 1}) * static_cast<int64_t>(sizeof(T));
    const int64_t most = std::max(kStripBytes / row / kRun * kRun, kFewestClasses);
    strip_classes = std::min(most, std::max<int64_t>(a.classes, 1));
    directions = a.empty({strip_classes, a.depth});
    inverse_proxies = a.empty({strip_classes});
    buffer = a.empty({strip_classes * a.batch});
    present = new_empty_like_type(a.embeddings, {a.anchor ? a.classes : 0}, ScalarType::Int);
    present_count = new_empty_like_type(a.embeddings, {1}, ScalarType::Int);
    to_unit(a.embeddings, 0, a.batch, unit, inverse);
    if (a.anchor) {
      torch::stable::zero_(present);
    }
    launch(
        device, mark_present, divide_up(a.batch, kThreads), 1, dim3(kThreads), data<int64_t>(a.labels),
        a.anchor ? mutable_data<int32_t>(present) : nullptr, a.batch, a.classes);
  }

  void forward(const Tensor& loss, const Tensor& statistics) {
    const int64_t strips = divide_up(a.classes, strip_classes);
    const int64_t strip_runs = divide_up(a.anchor ? a.batch : strip_classes, kRun);
    // Runs of all strips side by side for an embedding; a class has only its own.
    const int64_t runs = a.anchor ? strip_runs
                                  : std::max<int64_t>((strips - 1) * strip_runs, 0) +
            divide_up(a.classes - std::max<int64_t>(strips - 1, 0) * strip_classes, kRun);
    const int64_t rows = a.anchor ? strip_classes : a.batch;
    Tensor others = a.empty({rows, runs, 2}), pulls = a.empty({a.anchor ? rows : 0, runs, 2});
    Tensor own = a.empty({a.anchor ? 0 : a.batch});
    auto sums = [](const Tensor& tensor) { return reinterpret_cast<Sum<T>*>(mutable_data<T>(tensor)); };
    Strip<T> strip{};
    for (int64_t first = 0; first < a.classes; first += strip_classes) {
      strip = cosines(first);
      if (a.anchor) {
        launch_rows(collect<true, T>, strip.rows * strip.runs, strip, sums(others), sums(pulls), nullptr, runs, 0);
        launch_rows(
            pool_anchor<T>, strip.rows, strip, sums(others), sums(pulls), mutable_data<T>(statistics), a.classes);
      } else {
        launch_rows(
            collect<false, T>, strip.rows * strip.runs, strip, sums(others), nullptr, mutable_data<T>(own), runs,
            first / strip_classes * strip_runs);
      }
    }
    if (!a.anchor) {
      launch_rows(
          pool_softmax<T>, a.batch, strip, sums(others), data<T>(own), mutable_data<T>(statistics), a.batch, runs);
    }
    launch(
        device, total<T>, 1, 1, dim3(kTotalThreads), data<T>(statistics), data<int32_t>(present),
        mutable_data<T>(loss), nullptr, a.pooled(), a.anchor);
  }

  // to_embeddings, to_proxies: null where that gradient is not wanted.
  void backward(
      const Tensor& gradient, const Tensor& statistics, const Tensor* to_embeddings, const Tensor* to_proxies) {
    if (a.anchor) {
      launch(
          device, total<T>, 1, 1, dim3(kTotalThreads), data<T>(statistics), data<int32_t>(present), nullptr,
          mutable_data<int32_t>(present_count), a.classes, true);
    }
    Tensor pull = a.empty({to_embeddings ? a.batch : 0, a.depth});
    const bool several = a.classes > strip_classes;
    Tensor part = a.empty({to_embeddings && several ? a.batch : 0, a.depth});
    Tensor of_proxies = a.empty({to_proxies ? strip_classes : 0, a.depth});
    for (int64_t first = 0; first < a.classes; first += strip_classes) {
      const Strip<T> strip = cosines(first);
      auto run = [&](auto kernel) {
        launch_rows(
            kernel, strip.rows * strip.runs, strip, data<T>(statistics), data<T>(gradient),
            data<int32_t>(present_count), a.pooled());
      };
      a.anchor ? run(differentiate<true, T>) : run(differentiate<false, T>);
      const int64_t count = std::min(strip_classes, a.classes - first);
      const Tensor by_embedding = a.anchor ? transposed(matrix) : matrix;
      const Tensor by_class = a.anchor ? matrix : transposed(matrix);
      if (to_embeddings) {
        matrix_product(first == 0 ? pull : part, by_embedding, rows_of(directions, 0, count));
        if (first > 0) {
          launch(
              device, add_to<T>, divide_up(a.batch * a.depth, kThreads), 1, dim3(kThreads), mutable_data<T>(pull),
              data<T>(part), a.batch * a.depth);
        }
      }
      if (to_proxies) {
        matrix_product(rows_of(of_proxies, 0, count), by_class, unit);
        launch_rows(
            finish_rows<scalar_t, T>, count, data<T>(directions), data<T>(of_proxies), data<T>(inverse_proxies),
            mutable_data<scalar_t>(*to_proxies) + first * a.depth, count, a.depth);
      }
    }
    if (to_embeddings) {
      launch_rows(
          finish_rows<scalar_t, T>, a.batch, data<T>(unit), data<T>(pull), data<T>(inverse),
          mutable_data<scalar_t>(*to_embeddings), a.batch, a.depth);
    }
  }

 private:
  // A warp a row.
  template <typename Kernel, typename... Parameters>
  void launch_rows(Kernel* kernel, int64_t rows, const Parameters&... parameters) {
    launch(device, kernel, divide_up(rows, kWarps), 1, kWarpRows, parameters...);
  }

  void to_unit(const Tensor& rows, int64_t first, int64_t count, const Tensor& to, const Tensor& norms) {
    launch_rows(
        unit_rows<scalar_t, T>, count, data<scalar_t>(rows) + first * a.depth, mutable_data<T>(to),
        mutable_data<T>(norms), count, a.depth);
  }

  // Fills `matrix` with the cosines of the strip that begins at class `first`.
  Strip<T> cosines(int64_t first) {
    const int64_t count = std::min(strip_classes, a.classes - first);
    to_unit(a.proxies, first, count, directions, inverse_proxies);
    Strip<T> strip{};
    strip.labels = data<int64_t>(a.labels);
    strip.first = first;
    strip.rows = a.anchor ? count : a.batch;
    strip.columns = a.anchor ? a.batch : count;
    strip.runs = divide_up(strip.columns, kRun);
    strip.scale = static_cast<T>(a.scale);
    strip.shift = a.anchor ? static_cast<T>(a.scale * a.margin) : T(0);
    strip.margin = Margin<T>(a.margin);
    strip.widens = a.kind == Kind::arcface;
    const int64_t sizes[] = {strip.rows, strip.columns};
    matrix = torch::stable::view(
        rows_of(buffer, 0, count * a.batch), torch::headeronly::IntHeaderOnlyArrayRef(sizes, 2));
    const Tensor here = rows_of(directions, 0, count);
    matrix_product(matrix, a.anchor ? here : unit, transposed(a.anchor ? unit : here));
    strip.cosines = mutable_data<T>(matrix);
    return strip;
  }

  const Arguments& a;
  const Device& device;
  Tensor unit, inverse;               // of the embeddings
  int64_t strip_classes = 0;
  Tensor directions, inverse_proxies; // of the strip's classes
  Tensor buffer, matrix;              // the strip's cosines
  Tensor present, present_count;
};

std::tuple<Tensor, Tensor> proxy_loss(
    Tensor embeddings, Tensor proxies, Tensor labels, std::string kind, double scale, double margin) {
  const Arguments arguments(embeddings, proxies, labels, kind, scale, margin);
  const Device device(embeddings);
  Tensor loss = arguments.empty({}), statistics = arguments.empty({2, arguments.pooled()});
  dispatch_floating(embeddings.scalar_type(), "proxy_loss", [&](auto type) {
    Pass<typename decltype(type)::type>(arguments, device).forward(loss, statistics);
  });
  return {loss, statistics};
}

std::tuple<Tensor, Tensor> proxy_loss_backward(
    Tensor gradient, Tensor embeddings, Tensor proxies, Tensor labels, Tensor statistics, std::string kind,
    double scale, double margin, bool wants_embeddings, bool wants_proxies) {
  const Arguments arguments(embeddings, proxies, labels, kind, scale, margin);
  STD_TORCH_CHECK(
      gradient.numel() == 1 && gradient.scalar_type() == arguments.type && statistics.dim() == 2 &&
          statistics.scalar_type() == arguments.type && statistics.size(0) == 2 &&
          statistics.size(1) == arguments.pooled(),
      "proxy_loss_backward: expected a scalar gradient and what proxy_loss gave");
  check_device("proxy_loss_backward", embeddings, {&gradient, &statistics});
  const Device device(embeddings);
  const Tensor pools = as_contiguous(statistics);
  const ScalarType type = embeddings.scalar_type();
  Tensor to_embeddings =
      new_empty_like_type(embeddings, {wants_embeddings ? arguments.batch : 0, arguments.depth}, type);
  Tensor to_proxies = new_empty_like_type(embeddings, {wants_proxies ? arguments.classes : 0, arguments.depth}, type);
  dispatch_floating(type, "proxy_loss_backward", [&](auto of) {
    Pass<typename decltype(of)::type>(arguments, device)
        .backward(
            gradient, pools, wants_embeddings ? &to_embeddings : nullptr, wants_proxies ? &to_proxies : nullptr);
  });
  return {to_embeddings, to_proxies};
}

} // namespace
} // namespace robustdml

STABLE_TORCH_LIBRARY_IMPL(robustdml, CUDA, library) {
  library.impl("proxy_loss", TORCH_BOX(&robustdml::proxy_loss));
  library.impl("proxy_loss_backward", TORCH_BOX(&robustdml::proxy_loss_backward));
}
