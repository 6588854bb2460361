// Integer arithmetic that stays defined for any operands: results beyond int64 stick at its ends.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace tessera {

__extension__ typedef __int128 Int128;

constexpr int64_t SaturateToInt64(Int128 value) {
  constexpr Int128 kMin = std::numeric_limits<int64_t>::min();
  constexpr Int128 kMax = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::clamp(value, kMin, kMax));
}

constexpr int64_t SaturatingAdd(int64_t a, int64_t b) { return SaturateToInt64(Int128{a} + b); }
constexpr int64_t SaturatingMultiply(int64_t a, int64_t b) { return SaturateToInt64(Int128{a} * b); }

// The product of all factors. Saturation is exact for non-negative factors.
template <typename... Factors>
constexpr int64_t SaturatingProduct(int64_t first, Factors... rest) {
  ((first = SaturatingMultiply(first, rest)), ...);
  return first;
}

// For a >= 0, b > 0.
constexpr int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }
constexpr int64_t RoundUp(int64_t a, int64_t multiple) {
  return SaturatingMultiply(CeilDiv(a, multiple), multiple);
}
constexpr int64_t RoundDown(int64_t a, int64_t multiple) { return a / multiple * multiple; }

}  // namespace tessera
