// From the projection of queries, keys and values to the three of them, queries and keys turned by their positions (RoPE,
// arXiv 2104.09864), on the CPU in one pass forward and one backward; libtorch's split, roll, products and concatenations are
// nine. The rules of shim.cpp hold here too.

#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <memory>

#include "../guard.hpp"
#include "rows.hpp"

namespace {

using tensor = at::Tensor *;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Element i of a head is paired with i + half; `direction` is 1 forward and −1 backward. The sines of the first half are
// negative already.
template <typename T>
PART_OF_CALLER void turn(const T *x, const T *cosine, const T *sine, T *out, int64_t half, float direction) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float a = load(x + i), b = load(x + half + i);
    store(a * load(cosine + i) + b * load(sine + i) * direction, out + i);
    store(b * load(cosine + half + i) + a * load(sine + half + i) * direction, out + half + i);
  }
}

struct TurnHeads {
  template <typename T>
  PART_OF_CALLER void run(const T *x, int64_t from, const T *cosine, const T *sine, T *out, int64_t to, int64_t heads,
                          int64_t half, float direction) {
    for (int64_t h = 0; h < heads; ++h) turn(x + h * from, cosine, sine, out + h * to, half, direction);
  }
};

// One side of the exchange: the heads of one tensor. Read or written, by which side it is.
template <typename T>
struct Side {
  T *data;
  int64_t batch, position, head;

  T *at(int64_t b, int64_t l, int64_t h) const { return data + b * batch + l * position + h * head; }
};

// Only what is written is asked for as such: a tensor whose memory is shared until then would be copied.
template <typename T>
Side<T> side_of(const at::Tensor &t, bool is_written) {
  T *data = is_written ? t.mutable_data_ptr<T>() : const_cast<T *>(t.const_data_ptr<T>());
  return {data, t.stride(0), t.stride(1), t.stride(2)};
}

// The whole projection's heads are those of `apart[0]`, `apart[1]` and `apart[2]` one after the other. Forward from there to
// the parts, backward from the parts to there.
void between(const at::Tensor &whole, const std::array<at::Tensor, 3> &apart, const at::Tensor &cosines,
             const at::Tensor &sines, bool is_forward) {
  const int64_t batch = whole.size(0), length = whole.size(1), dim = whole.size(3);
  const float direction = is_forward ? 1.0F : -1.0F;
  for_kind(whole.scalar_type(), [&](auto *like) {
    using T = std::remove_pointer_t<decltype(like)>;
    const T *cosine = cosines.const_data_ptr<T>(), *sine = sines.const_data_ptr<T>();
    const Side<T> together = side_of<T>(whole, !is_forward);
    std::array<Side<T>, 3> alone;
    for (int part = 0; part < 3; ++part) alone[part] = side_of<T>(apart[part], is_forward);
    for_rows(batch * length, threads_for(whole.numel()), [&](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        const int64_t b = row / length, l = row % length;
        int64_t before = 0;
        for (int part = 0; part < 3; ++part) {
          T *x = together.at(b, l, before), *y = alone[part].at(b, l, 0);
          int64_t from = together.head, to = alone[part].head;
          if (!is_forward) {
            std::swap(x, y);
            std::swap(from, to);
          }
          const int64_t heads = apart[part].size(2);
          before += heads;
          if (part < 2) {
            run<TurnHeads>(static_cast<const T *>(x), from, cosine + l * dim, sine + l * dim, y, to, heads, dim / 2, direction);
            continue;
          }
          for (int64_t h = 0; h < heads; ++h) std::copy_n(x + h * from, dim, y + h * to);
        }
      }
    });
  });
}

struct Rotary : torch::autograd::Function<Rotary> {
  static variable_list forward(AutogradContext *ctx, const at::Tensor &projected, const at::Tensor &cosines,
                               const at::Tensor &sines, int64_t queries, int64_t keys) {
    const int64_t dim = cosines.size(-1);
    const auto whole = projected.contiguous().unflatten(-1, {queries + 2 * keys, dim});
    const auto room = [&](int64_t heads) {
      return at::empty({whole.size(0), whole.size(1), heads, dim}, whole.options());
    };
    const std::array<at::Tensor, 3> apart{room(queries), room(keys), room(keys)};
    between(whole, apart, cosines, sines, true);
    ctx->save_for_backward({cosines, sines});
    return {apart[0], apart[1], apart[2]};
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    std::array<at::Tensor, 3> apart;
    int64_t heads = 0;
    for (int part = 0; part < 3; ++part) {
      const auto &g = gradients[part];
      apart[part] = g.stride(3) == 1 ? g : g.contiguous();
      heads += g.size(2);
    }
    const auto &g = apart[0];
    const auto whole = at::empty({g.size(0), g.size(1), heads, g.size(3)}, g.options());
    between(whole, apart, saved[0], saved[1], false);
    return {whole.flatten(2), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" char *btx_rotary(tensor projected, tensor cosines, tensor sines, int64_t queries, int64_t keys, tensor *out) {
  return guarded([&] {
    for (const auto *t : {projected, cosines, sines}) {
      check_operand(*t);
      TORCH_CHECK(t->scalar_type() == projected->scalar_type(), "tables and heads of different types");
      TORCH_CHECK(t->dim() == 3, "not of three dimensions: ", t->sizes());
    }
    TORCH_CHECK(queries > 0 && keys > 0 && queries < 1 << 20 && keys < 1 << 20, queries, " and ", keys, " heads");
    const int64_t dim = cosines->size(-1);
    const std::array<int64_t, 3> rows{projected->size(1), 1, dim};
    const at::IntArrayRef table(rows);
    TORCH_CHECK(dim > 0 && dim % 2 == 0 && cosines->sizes() == table && sines->sizes() == table &&
                    projected->size(2) == (queries + 2 * keys) * dim,
                "tables of ", cosines->sizes(), " and ", sines->sizes(), " for ", projected->sizes());
    const auto apart = Rotary::apply(*projected, cosines->contiguous(), sines->contiguous(), queries, keys);
    // None is handed over before all are there.
    std::array<std::unique_ptr<at::Tensor>, 3> made;
    for (int part = 0; part < 3; ++part) made[part] = std::make_unique<at::Tensor>(apart[part]);
    for (int part = 0; part < 3; ++part) out[part] = made[part].release();
  });
}
