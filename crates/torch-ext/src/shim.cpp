// The C side of what tch lacks. Rules of this file:
//   - every function is `extern "C"` and catches everything: an exception that reached Rust would be undefined;
//   - it returns null on success, else an error text that the caller frees with `btx_text_free`;
//   - a `tensor` that comes in stays the caller's; one that goes out through `tensor *out` becomes the caller's;
//   - libtorch's kernels trust the shapes they are given, so every list is checked before a kernel sees it.

#include <ATen/ATen.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/headeronly/version.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "guard.hpp"

namespace {

// As torch-sys has it, so that a pointer from tch means the same here.
using tensor = at::Tensor *;
using Tensors = std::vector<at::Tensor>;

Tensors list(const tensor *data, size_t length, const char *name) {
  Tensors result;
  result.reserve(length);
  for (size_t i = 0; i < length; ++i) {
    TORCH_CHECK(data[i]->defined(), name, "[", i, "] is undefined");
    result.push_back(*data[i]);
  }
  return result;
}

// Refuses what would make a fused kernel read or write beside its buffers: it walks all lists with one index.
void check_alike(const Tensors &expected, const Tensors &found, const char *name) {
  TORCH_CHECK(expected.size() == found.size(), name, " has ", found.size(), " tensors, expected ", expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto &a = expected[i], &b = found[i];
    TORCH_CHECK(a.sizes() == b.sizes(), name, "[", i, "] has shape ", b.sizes(), ", expected ", a.sizes());
    TORCH_CHECK(a.device() == b.device(), name, "[", i, "] is on ", b.device(), ", expected ", a.device());
    TORCH_CHECK(a.scalar_type() == b.scalar_type(), name, "[", i, "] is ", b.scalar_type(), ", expected ",
                a.scalar_type());
    TORCH_CHECK(a.is_contiguous() && b.is_contiguous(), name, "[", i, "] and its parameter must be contiguous");
  }
}

void check_one_device(const Tensors &tensors, const char *name) {
  TORCH_CHECK(!tensors.empty(), name, " is empty");
  for (const auto &one : tensors) {
    TORCH_CHECK(one.device() == tensors[0].device(), name, " lie on several devices");
  }
}

void check_scalar(const at::Tensor &scalar, const at::Tensor &beside, const char *name) {
  TORCH_CHECK(scalar.defined() && scalar.numel() == 1 && scalar.scalar_type() == at::kFloat, name,
              " must hold one fp32 number");
  TORCH_CHECK(scalar.device() == beside.device(), name, " is on ", scalar.device(), ", expected ", beside.device());
}

at::Tensor global_norm(const Tensors &tensors) {
  // fp32 even for bf16 tensors: the squares of a large one overflow no sum, and their sum loses no digits.
  auto norms = at::_foreach_norm(tensors, 2, at::kFloat);
  return at::linalg_vector_norm(at::stack(norms), 2);
}

}  // namespace

extern "C" {

void btx_text_free(char *text) { free(text); }

struct btx_adamw {
  double lr, beta1, beta2, eps, weight_decay;
};

char *btx_fused_adamw(const tensor *params, const tensor *grads, const tensor *exp_avgs, const tensor *exp_avg_sqs,
                      const tensor *steps, size_t length, const btx_adamw *options, tensor found_inf) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto p = list(params, length, "params"), g = list(grads, length, "grads");
    auto m = list(exp_avgs, length, "exp_avgs"), v = list(exp_avg_sqs, length, "exp_avg_sqs");
    auto s = list(steps, length, "steps");
    check_one_device(p, "params");
    check_alike(p, g, "grads");
    check_alike(p, m, "exp_avgs");
    check_alike(p, v, "exp_avg_sqs");
    for (const auto &step : s) check_scalar(step, p[0], "a step");
    std::optional<at::Tensor> skip;
    if (found_inf) {
      check_scalar(*found_inf, p[0], "found_inf");
      skip = *found_inf;
    }
    at::_fused_adamw_(p, g, m, v, /*max_exp_avg_sqs=*/{}, s, options->lr, options->beta1, options->beta2,
                      options->weight_decay, options->eps, /*amsgrad=*/false, /*maximize=*/false,
                      /*grad_scale=*/std::nullopt, skip);
  });
}

char *btx_global_norm(const tensor *tensors, size_t length, tensor *out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto t = list(tensors, length, "tensors");
    check_one_device(t, "tensors");
    *out = new at::Tensor(global_norm(t));
  });
}

char *btx_clip_global_norm(const tensor *tensors, size_t length, double max_norm, tensor *out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    auto t = list(tensors, length, "tensors");
    check_one_device(t, "tensors");
    auto norm = global_norm(t);
    // Multiplied always, by one where nothing is to be clipped: asking which would wait for the device.
    at::_foreach_mul_(t, (max_norm / (norm + 1e-6)).clamp_max(1.0));
    *out = new at::Tensor(norm);
  });
}

char *btx_foreach_copy(const tensor *to, const tensor *from, size_t length, bool non_blocking) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    at::_foreach_copy_(list(to, length, "to"), list(from, length, "from"), non_blocking);
  });
}

char *btx_foreach_add(const tensor *to, const tensor *from, size_t length, double alpha) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    at::_foreach_add_(list(to, length, "to"), list(from, length, "from"), alpha);
  });
}

char *btx_foreach_lerp(const tensor *to, const tensor *from, size_t length, double weight) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    at::_foreach_lerp_(list(to, length, "to"), list(from, length, "from"), weight);
  });
}

char *btx_foreach_mul(const tensor *tensors, size_t length, double factor) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    at::_foreach_mul_(list(tensors, length, "tensors"), factor);
  });
}

char *btx_foreach_zero(const tensor *tensors, size_t length) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    at::_foreach_zero_(list(tensors, length, "tensors"));
  });
}

char *btx_backward(const tensor *outputs, const tensor *gradients, size_t length) {
  return guarded([&] {
    torch::autograd::backward(list(outputs, length, "outputs"), list(gradients, length, "gradients"));
  });
}

char *btx_set_grad(tensor of, tensor gradient) {
  return guarded([&] {
    TORCH_CHECK(of->defined(), "the tensor is undefined");
    // The setter itself checks nothing.
    if (gradient) check_alike({*of}, {*gradient}, "gradient");
    of->mutable_grad() = gradient ? *gradient : at::Tensor();
  });
}

struct btx_memory {
  int64_t allocated, peak_allocated, reserved, peak_reserved;
};

static c10::DeviceAllocator *cuda_allocator() {
  TORCH_CHECK(at::hasCUDA(), "this libtorch has no CUDA");
  at::globalContext().lazyInitDevice(at::kCUDA);
  return c10::getDeviceAllocator(at::kCUDA);
}

// Gives the memory of `of` back and lets it point into that of `scratch`, which it keeps alive.
char *btx_park(tensor of, tensor scratch) {
  return guarded([&] {
    TORCH_CHECK(of->defined() && scratch->defined(), "an undefined tensor");
    TORCH_CHECK(of->device() == scratch->device(), "tensors on ", of->device(), " and ", scratch->device());
    auto storage = of->storage();
    auto held = std::make_unique<c10::Storage>(scratch->storage());
    TORCH_CHECK(held->nbytes() >= storage.nbytes(), storage.nbytes(), " bytes do not fit into ", held->nbytes());
    c10::DataPtr pointer(held->mutable_data(), held.get(), [](void *held) { delete static_cast<c10::Storage *>(held); },
                         of->device());
    held.release();
    storage.set_data_ptr(std::move(pointer));
  });
}

// Exchanges the memory of two tensors: every pointer keeps an owner, whoever else holds either of them.
char *btx_exchange(tensor one, tensor other) {
  return guarded([&] {
    TORCH_CHECK(one->defined() && other->defined(), "an undefined tensor");
    TORCH_CHECK(one->device() == other->device(), "tensors on ", one->device(), " and ", other->device());
    auto a = one->storage(), b = other->storage();
    TORCH_CHECK(a.nbytes() == b.nbytes(), "storages of ", a.nbytes(), " and ", b.nbytes(), " bytes");
    TORCH_CHECK(!a.is_alias_of(b), "the two share their storage");
    a.set_data_ptr(b.set_data_ptr(a.set_data_ptr(c10::DataPtr(nullptr, one->device()))));
  });
}

char *btx_cuda_memory(int8_t device, btx_memory *out) {
  return guarded([&] {
    auto stats = cuda_allocator()->getDeviceStats(device);
    // Index 0 is the sum over the allocator's small and large pools.
    const auto &allocated = stats.allocated_bytes[0], &reserved = stats.reserved_bytes[0];
    *out = {allocated.current, allocated.peak, reserved.current, reserved.peak};
  });
}

char *btx_cuda_reset_peaks(int8_t device) {
  return guarded([&] { cuda_allocator()->resetPeakStats(device); });
}

char *btx_cuda_empty_cache() {
  return guarded([&] { cuda_allocator()->emptyCache(); });
}

// `cuda` is major × 1000 + minor × 10, 0 where libtorch was built without.
char *btx_versions(const char **libtorch, int64_t *cuda) {
  return guarded([&] {
    *libtorch = TORCH_VERSION;
    // Asks no driver: what libtorch was built with counts, whatever this machine has.
    const auto &hooks = at::detail::getCUDAHooks();
    try {
      *cuda = hooks.versionCUDART();
    } catch (const c10::Error &) {
      *cuda = 0;
    }
  });
}

}  // extern "C"
