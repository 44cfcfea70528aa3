// RMSNorm on the CPU in one pass forward and one backward; libtorch composes it of a dozen, each through memory. The rules of
// shim.cpp hold here too.

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "../guard.hpp"
#include "rows.hpp"

namespace {

using tensor = at::Tensor *;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// out = x·r·w with r = 1 / sqrt(mean(x²) + eps), rounded before the product with the weight, as transformers does. Returns r.
template <typename T>
PART_OF_CALLER float normalize(const T *x, const float *weight, T *out, int64_t n, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += load(x + i) * load(x + i);
  const float r = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(rounded(load(x + i) * r, x) * weight[i], out + i);
  return r;
}

// With y = w·x·r and g the gradient of y: dx = r·(g·w − x·r²·mean(g·w·x)), and dw gets g·x·r added.
template <typename T>
PART_OF_CALLER void back(const T *x, const T *g, const float *weight, float r, int64_t n, T *dx, float *dw) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += load(g + i) * weight[i] * load(x + i);
  const float along = dot * r * r / static_cast<float>(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float value = load(x + i), gradient = load(g + i);
    store(r * (gradient * weight[i] - value * along), dx + i);
    dw[i] += gradient * value * r;
  }
}

struct NormalizeRows {
  template <typename T>
  PART_OF_CALLER void run(const T *x, const float *weight, T *out, int64_t rows, int64_t n, float eps, float *inverses) {
    for (int64_t row = 0; row < rows; ++row) inverses[row] = normalize(x + row * n, weight, out + row * n, n, eps);
  }
};

struct BackRows {
  template <typename T>
  PART_OF_CALLER void run(const T *x, const T *g, const float *weight, const float *inverses, int64_t rows, int64_t n, T *dx,
                          float *dw) {
    for (int64_t row = 0; row < rows; ++row) {
      back(x + row * n, g + row * n, weight, inverses[row], n, dx + row * n, dw);
    }
  }
};

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_in, const at::Tensor &weight_in, double eps) {
    const auto x = x_in.contiguous(), weight = weight_in.to(at::kFloat).contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / std::max<int64_t>(n, 1);
    auto out = at::empty_like(x), inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    for_kind(x.scalar_type(), [&](auto *like) {
      using T = std::remove_pointer_t<decltype(like)>;
      const T *from = x.const_data_ptr<T>();
      T *to = out.mutable_data_ptr<T>();
      const float *w = weight.const_data_ptr<float>();
      float *inverses = inverse.mutable_data_ptr<float>();
      for_rows(rows, threads_for(x.numel()), [&](int64_t, int64_t first, int64_t last) {
        run<NormalizeRows>(from + first * n, w, to + first * n, last - first, n, static_cast<float>(eps), inverses + first);
      });
    });
    ctx->save_for_backward({x, weight, inverse});
    ctx->saved_data["weight_kind"] = static_cast<int64_t>(weight_in.scalar_type());
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const auto g = gradients[0].contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / std::max<int64_t>(n, 1), threads = threads_for(x.numel());
    auto dx = at::empty_like(x), parts = at::zeros({threads, n}, weight.options());
    for_kind(x.scalar_type(), [&](auto *like) {
      using T = std::remove_pointer_t<decltype(like)>;
      const T *values = x.const_data_ptr<T>(), *gradient = g.const_data_ptr<T>();
      T *to = dx.mutable_data_ptr<T>();
      const float *w = weight.const_data_ptr<float>(), *inverses = inverse.const_data_ptr<float>();
      float *sums = parts.mutable_data_ptr<float>();
      for_rows(rows, threads, [&](int64_t part, int64_t first, int64_t last) {
        run<BackRows>(values + first * n, gradient + first * n, w, inverses + first, last - first, n, to + first * n,
                      sums + part * n);
      });
    });
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["weight_kind"].toInt());
    return {dx, parts.sum(0).to(kind), at::Tensor()};
  }
};

}  // namespace

extern "C" char *btx_rms_norm(tensor x, tensor weight, double eps, tensor *out) {
  return guarded([&] {
    for (const auto *t : {x, weight}) check_operand(*t);
    TORCH_CHECK(x->dim() > 0 && weight->dim() == 1 && weight->size(0) == x->size(-1), "a weight of ", weight->sizes(),
                " for rows of ", x->sizes());
    *out = new at::Tensor(RmsNorm::apply(*x, *weight, eps));
  });
}

extern "C" void btx_limit_vectors(int bits) { most_vector_bits.store(bits, std::memory_order_relaxed); }
