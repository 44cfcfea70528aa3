// What the CPU's fused kernels share: elements of fp32 or bf16 as floats, loops for every width of vector, rows for every
// thread. Functions are static: one that is compiled for several processors must belong to one file.

#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <type_traits>

// Part of whatever calls it, so that it is compiled for the caller's processor.
#define PART_OF_CALLER __attribute__((always_inline)) static inline

#if defined(__x86_64__) && defined(__GNUC__)
// By features: GCC's own dispatch (`target_clones`) with `arch=` asks for that very model of processor, and its features go
// one at a time.
#define VECTORS_OF_512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")))
#define VECTORS_OF_256 __attribute__((target("avx2,fma")))

template <typename K, typename... A>
VECTORS_OF_512 static void run_with_512(A... arguments) {
  K::run(arguments...);
}

template <typename K, typename... A>
VECTORS_OF_256 static void run_with_256(A... arguments) {
  K::run(arguments...);
}

// Bits of the widest vectors that this processor has and the kernels are compiled for.
static inline int vector_bits() {
  static const int bits = [] {
    const bool has_256 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has_256 ? (has_512 ? 512 : 256) : 128;
  }();
  return bits;
}
#else
static inline int vector_bits() { return 128; }
#endif

// `K::run(arguments...)`, which is part of its caller, compiled for vectors of `bits`, or narrower ones if there are none.
template <typename K, typename... A>
static void run_with(int bits, A... arguments) {
  bits = std::min(bits, vector_bits());
#if defined(__x86_64__) && defined(__GNUC__)
  if (bits == 512) return run_with_512<K>(arguments...);
  if (bits == 256) return run_with_256<K>(arguments...);
#endif
  K::run(arguments...);
}

// The most bits that `run` uses, in all files; tests lower it.
inline std::atomic<int> most_vector_bits{512};

template <typename K, typename... A>
static void run(A... arguments) {
  run_with<K>(most_vector_bits.load(std::memory_order_relaxed), arguments...);
}

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

// How many threads `elements` are worth: as libtorch has it, none is woken for less than 2¹⁵.
static inline int64_t threads_for(int64_t elements) {
  return std::clamp<int64_t>((elements + 32767) / 32768, 1, at::get_num_threads());
}

// Runs `body(part, first, last)` on the rows of each of `threads` threads.
template <typename F>
static void for_rows(int64_t rows, int64_t threads, F &&body) {
  const int64_t each = (rows + threads - 1) / threads;
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      body(part, std::min(rows, part * each), std::min(rows, (part + 1) * each));
    }
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
