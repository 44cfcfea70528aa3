// SwiGLU's middle on the CPU in one pass forward and one backward; libtorch's silu and product are five, and keep silu(gate)
// for the way back. The rules of shim.cpp hold here too.

#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "../guard.hpp"
#include "rows.hpp"

namespace {

using tensor = at::Tensor *;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// eˣ to about one unit in the last place: 2ⁿ·eʳ with |r| ≤ ln 2 / 2 and Cephes' polynomial (expf.c). The C library's is
// called for one element at a time. Below −87 it stays what it is there, above 88 it is infinite; NaN stays NaN.
PART_OF_CALLER float exponential(float of) {
  float x = of < -87.0F ? -87.0F : of;
  x = x > 88.0F ? 88.0F : x;
  // Adding 1.5·2²³ rounds to an integer, which is then in the lowest bits.
  const float shifted = x * 1.44269504F + 12582912.0F, n = shifted - 12582912.0F;
  // ln 2 in two parts, of which n times the first is exact.
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127U) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof bits);
  return of > 88.0F ? std::numeric_limits<float>::infinity() : p * power;
}

PART_OF_CALLER float sigmoid(float x) { return 1.0F / (1.0F + exponential(-x)); }

// Rounded before the product, as transformers does.
struct Forward {
  template <typename T>
  PART_OF_CALLER void run(const T *gate, const T *up, T *out, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float x = load(gate + i);
      store(rounded(x * sigmoid(x), gate) * load(up + i), out + i);
    }
  }
};

// With s = σ(gate): d up = g·gate·s, and d gate = g·up·s·(1 + gate·(1 − s)).
struct Backward {
  template <typename T>
  PART_OF_CALLER void run(const T *gate, const T *up, const T *g, T *dgate, T *dup, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float x = load(gate + i), gradient = load(g + i), s = sigmoid(x);
      store(gradient * rounded(x * s, gate), dup + i);
      store(gradient * load(up + i) * s * (1.0F + x * (1.0F - s)), dgate + i);
    }
  }
};

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &gate_in, const at::Tensor &up_in) {
    const auto gate = gate_in.contiguous(), up = up_in.contiguous();
    auto out = at::empty_like(gate);
    for_kind(gate.scalar_type(), [&](auto *like) {
      using T = std::remove_pointer_t<decltype(like)>;
      const T *x = gate.const_data_ptr<T>(), *y = up.const_data_ptr<T>();
      T *to = out.mutable_data_ptr<T>();
      for_rows(gate.numel(), threads_for(gate.numel()), [&](int64_t, int64_t first, int64_t last) {
        run<Forward>(x + first, y + first, to + first, last - first);
      });
    });
    ctx->save_for_backward({gate, up});
    return out;
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const auto &gate = saved[0], &up = saved[1];
    const auto g = gradients[0].contiguous();
    auto dgate = at::empty_like(gate), dup = at::empty_like(up);
    for_kind(gate.scalar_type(), [&](auto *like) {
      using T = std::remove_pointer_t<decltype(like)>;
      const T *x = gate.const_data_ptr<T>(), *y = up.const_data_ptr<T>(), *gradient = g.const_data_ptr<T>();
      T *dx = dgate.mutable_data_ptr<T>(), *dy = dup.mutable_data_ptr<T>();
      for_rows(gate.numel(), threads_for(gate.numel()), [&](int64_t, int64_t first, int64_t last) {
        run<Backward>(x + first, y + first, gradient + first, dx + first, dy + first, last - first);
      });
    });
    return {dgate, dup};
  }
};

}  // namespace

extern "C" char *btx_swiglu(tensor gate, tensor up, tensor *out) {
  return guarded([&] {
    for (const auto *t : {gate, up}) check_operand(*t);
    TORCH_CHECK(gate->sizes() == up->sizes() && gate->scalar_type() == up->scalar_type(), "a gate of ",
                gate->scalar_type(), " ", gate->sizes(), " for ", up->scalar_type(), " ", up->sizes());
    *out = new at::Tensor(SwiGlu::apply(*gate, *up));
  });
}
