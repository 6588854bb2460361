// Reading and writing the problem's tensors, whatever their dtype.
#pragma once

#include <type_traits>

#include "kernels/cpu/fused_rows.inc.h"

namespace tessera::kernels::cpu {
namespace {

// Cuts scratch into arrays, each on its own cache lines. With a null base it only counts.
struct Carver {
  std::byte* base;
  int64_t bytes = 0;

  template <typename T>
  void Take(T*& pointer, int64_t count) {
    pointer = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(bytes));
    bytes += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
};

// Calls f with a null pointer of the element type of `dtype`, one that O may have.
template <typename F>
inline void WithOutputType(tessera_dtype dtype, const F& f) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      f(static_cast<const Half*>(nullptr));
      return;
    case TESSERA_DTYPE_BF16:
      f(static_cast<const BFloat16*>(nullptr));
      return;
    default:
      f(static_cast<const float*>(nullptr));
      return;
  }
}

// The same for a dtype that Q, K and V may have.
template <typename F>
inline void WithInputType(tessera_dtype dtype, const F& f) {
  if (dtype == TESSERA_DTYPE_FP8_E4M3) return f(static_cast<const E4M3*>(nullptr));
  WithOutputType(dtype, f);
}

template <typename T>
inline const T* RowOf(const tessera_tensor& tensor, int64_t token, int64_t head) {
  return static_cast<const T*>(tensor.data) + token * tensor.token_stride + head * tensor.head_stride;
}

template <typename T>
inline T* MutableRowOf(const tessera_tensor& tensor, int64_t token, int64_t head) {
  return static_cast<T*>(tensor.data) + token * tensor.token_stride + head * tensor.head_stride;
}

// Elements [begin, begin + kLanes) of a row of `length`, zero past its end.
template <typename T>
inline Vec LoadPadded(const T* row, int32_t begin, int32_t length) {
  if (begin + kLanes <= length) return LoadAs(row + begin);
  T padded[kLanes] = {};
  for (int32_t i = begin; i < length; ++i) padded[i - begin] = row[i];
  return LoadAs(padded);
}

template <typename T>
inline void StorePadded(T* row, int32_t begin, int32_t length, Vec value) {
  if (begin + kLanes <= length) {
    StoreAs(row + begin, value);
    return;
  }
  T padded[kLanes];
  StoreAs(padded, value);
  for (int32_t i = begin; i < length; ++i) row[i] = padded[i - begin];
}

inline constexpr int64_t kCacheLine = 64;

// Asks for a row of memory, into the second-level cache.
inline void PrefetchRow(const void* row, int64_t bytes) {
  const auto* const line = static_cast<const std::byte*>(row);
  for (int64_t offset = 0; offset < bytes; offset += kCacheLine) __builtin_prefetch(line + offset, 0, 2);
}

// Fetches the K and V rows of the next tile a few at a time, from inside the products of the current one, so
// that the packing that follows finds them close by and no burst of requests holds up anyone else.
struct TilePrefetch {
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  int64_t k_stride = 0, v_stride = 0;  // bytes
  int64_t k_bytes = 0, v_bytes = 0;    // of a row
  int32_t keys_left = 0;
  int32_t keys_per_step = 0;

  void Step() {
    for (int32_t i = 0; i < keys_per_step && keys_left > 0; ++i, --keys_left) {
      PrefetchRow(k, k_bytes);
      PrefetchRow(v, v_bytes);
      k += k_stride;
      v += v_stride;
    }
  }
};

inline bool IsFinite(float x) { return x - x == 0.0f; }

}  // namespace
}  // namespace tessera::kernels::cpu
