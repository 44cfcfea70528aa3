// RMSNorm on the CPU in one pass forward and one backward; libtorch composes it of a dozen, each through memory. The rules of
// shim.cpp hold here too.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Compiled for each, chosen when the program starts.
#define FOR_EVERY_WIDTH __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FOR_EVERY_WIDTH
#endif

namespace {

using tensor = at::Tensor *;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// 1 / sqrt(mean(x²) + eps), and x times that.
FOR_EVERY_WIDTH void normalize(const float *x, float *out, int64_t n, float eps, float &inverse) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  inverse = 1.0F / std::sqrt(squares / static_cast<float>(n) + eps);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse;
}

FOR_EVERY_WIDTH void scale(float *values, const float *weight, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] *= weight[i];
}

// With y = w·x·r and g the gradient of y: dx = r·(g·w − x·r²·mean(g·w·x)), and dw gets g·x·r added.
FOR_EVERY_WIDTH void back(const float *x, const float *g, const float *weight, float r, int64_t n, float *dx, float *dw) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t i = 0; i < n; ++i) dot += g[i] * weight[i] * x[i];
  const float along = dot * r * r / static_cast<float>(n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    dx[i] = r * (g[i] * weight[i] - x[i] * along);
    dw[i] += g[i] * x[i] * r;
  }
}

FOR_EVERY_WIDTH void widen(const c10::BFloat16 *from, float *to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i].x) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

// To the nearest, halves to even; NaN stays NaN.
FOR_EVERY_WIDTH void narrow(const float *from, c10::BFloat16 *to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to[i].x = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
}

// A row as floats: itself, or a copy in `buffer`.
const float *row_of(const at::Tensor &t, int64_t row, int64_t n, float *buffer) {
  if (t.scalar_type() == at::kFloat) return t.const_data_ptr<float>() + row * n;
  widen(t.const_data_ptr<c10::BFloat16>() + row * n, buffer, n);
  return buffer;
}

// Runs `body` on the rows of each thread, which gets its number.
template <typename F>
void for_rows(int64_t rows, int64_t threads, F &&body) {
  const int64_t each = (rows + threads - 1) / threads;
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) body(part, part * each, std::min(rows, (part + 1) * each));
  });
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x_in, const at::Tensor &weight_in, double eps) {
    const auto x = x_in.contiguous(), weight = weight_in.to(at::kFloat).contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / std::max<int64_t>(n, 1);
    auto out = at::empty_like(x), inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    const bool is_narrow = x.scalar_type() == at::kBFloat16;
    const float *w = weight.const_data_ptr<float>();
    float *inverses = inverse.mutable_data_ptr<float>();
    for_rows(rows, at::get_num_threads(), [&](int64_t, int64_t first, int64_t last) {
      std::vector<float> wide(is_narrow ? 2 * n : 0);
      for (int64_t row = first; row < last; ++row) {
        const float *values = row_of(x, row, n, wide.data());
        float *to = is_narrow ? wide.data() + n : out.mutable_data_ptr<float>() + row * n;
        normalize(values, to, n, static_cast<float>(eps), inverses[row]);
        if (is_narrow) {
          // Rounded before the product with the weight, as transformers does.
          auto *narrowed = out.mutable_data_ptr<c10::BFloat16>() + row * n;
          narrow(to, narrowed, n);
          widen(narrowed, to, n);
          scale(to, w, n);
          narrow(to, narrowed, n);
        } else {
          scale(to, w, n);
        }
      }
    });
    ctx->save_for_backward({x, weight, inverse});
    ctx->saved_data["weight_kind"] = static_cast<int64_t>(weight_in.scalar_type());
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const auto g = gradients[0].contiguous();
    const int64_t n = x.size(-1), rows = x.numel() / std::max<int64_t>(n, 1), threads = at::get_num_threads();
    auto dx = at::empty_like(x), parts = at::zeros({threads, n}, weight.options());
    const bool is_narrow = x.scalar_type() == at::kBFloat16;
    const float *w = weight.const_data_ptr<float>(), *inverses = inverse.const_data_ptr<float>();
    for_rows(rows, threads, [&](int64_t part, int64_t first, int64_t last) {
      std::vector<float> wide(is_narrow ? 3 * n : 0);
      float *dw = parts.mutable_data_ptr<float>() + part * n;
      for (int64_t row = first; row < last; ++row) {
        const float *values = row_of(x, row, n, wide.data());
        const float *gradient = row_of(g, row, n, wide.data() + n);
        float *to = is_narrow ? wide.data() + 2 * n : dx.mutable_data_ptr<float>() + row * n;
        back(values, gradient, w, inverses[row], n, to, dw);
        if (is_narrow) narrow(to, dx.mutable_data_ptr<c10::BFloat16>() + row * n, n);
      }
    });
    const auto kind = static_cast<at::ScalarType>(ctx->saved_data["weight_kind"].toInt());
    return {dx, parts.sum(0).to(kind), at::Tensor()};
  }
};

}  // namespace

extern "C" char *btx_rms_norm(tensor x, tensor weight, double eps, tensor *out) {
  try {
    for (const auto *t : {x, weight}) {
      TORCH_CHECK(t->defined() && t->device().is_cpu(), "an undefined tensor, or not on the CPU");
      TORCH_CHECK(t->scalar_type() == at::kFloat || t->scalar_type() == at::kBFloat16, "neither fp32 nor bf16");
    }
    TORCH_CHECK(x->dim() > 0 && weight->dim() == 1 && weight->size(0) == x->size(-1), "a weight of ", weight->sizes(),
                " for rows of ", x->sizes());
    *out = new at::Tensor(RmsNorm::apply(*x, *weight, eps));
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}
