// What the CPU's fused kernels share: elements of fp32 or bf16 as floats, loops for every width of vector, rows for every
// thread. All static: a function that is compiled for several processors must belong to one file.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Compiled for each, chosen when the program starts.
#define FOR_EVERY_WIDTH __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define FOR_EVERY_WIDTH
#endif

// Part of whatever calls it, so that it is compiled for the caller's processor.
#define PART_OF_CALLER __attribute__((always_inline)) static inline

PART_OF_CALLER float load(const float *from) { return *from; }

PART_OF_CALLER float load(const c10::BFloat16 *from) {
  const uint32_t bits = static_cast<uint32_t>(from->x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

PART_OF_CALLER void store(float value, float *to) { *to = value; }

// To the nearest, halves to even; NaN stays NaN.
PART_OF_CALLER void store(float value, c10::BFloat16 *to) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->x = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

// `value` as it comes back from memory of the type that `like` points to.
template <typename T>
PART_OF_CALLER float rounded(float value, const T *) {
  T narrow;
  store(value, &narrow);
  return load(&narrow);
}

// Runs `body(part, first, last)` on the rows of each of `threads` threads.
template <typename F>
static void for_rows(int64_t rows, int64_t threads, F &&body) {
  const int64_t each = (rows + threads - 1) / threads;
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) body(part, part * each, std::min(rows, (part + 1) * each));
  });
}

// Runs `body` with a null pointer of the C++ type of `kind`, which `check_operand` has let pass.
template <typename F>
static void for_kind(at::ScalarType kind, F &&body) {
  if (kind == at::kFloat) {
    body(static_cast<float *>(nullptr));
  } else {
    body(static_cast<c10::BFloat16 *>(nullptr));
  }
}

static inline void check_operand(const at::Tensor &t) {
  TORCH_CHECK(t.defined() && t.device().is_cpu(), "an undefined tensor, or not on the CPU");
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, "neither fp32 nor bf16");
}
