// fp16, bf16 and fp8 conversion in plain C++. Included into single translation units: everything has internal
// linkage.
#pragma once

#include <cstdint>
#include <cstring>

namespace tessera::kernels::cpu {
namespace {

// Storage of the narrow types, distinct so that overloads can tell them apart.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct E4M3 {  // inputs only
  uint8_t bits;
};

inline float BitsToFloat(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float ToFloat(float value) { return value; }
inline float ToFloat(BFloat16 value) { return BitsToFloat(uint32_t{value.bits} << 16); }
inline float ToFloat(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return BitsToFloat(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  if (magnitude >= 0x0400u) return BitsToFloat(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

inline float ToFloat(E4M3 value) {
  const uint32_t sign = uint32_t{value.bits & 0x80u} << 24;
  const uint32_t magnitude = value.bits & 0x7Fu;
  if (magnitude == 0x7Fu) return BitsToFloat(sign | 0x7FC00000u);
  if (magnitude >= 0x08u) return BitsToFloat(sign | ((magnitude << 20) + (120u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
  return sign ? -subnormal : subnormal;
}

// Round to nearest, ties to even; NaN stays NaN.
inline void FromFloat(float value, float* out) { *out = value; }
inline void FromFloat(float value, BFloat16* out) {
  const uint32_t bits = FloatToBits(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    out->bits = static_cast<uint16_t>(bits >> 16 | 0x40u);
    return;
  }
  out->bits = static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
inline void FromFloat(float value, Half* out) {
  const uint32_t bits = FloatToBits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;
  } else if (magnitude >= 0x477FF000u) {  // 65520: rounds past the largest finite fp16
    half = 0x7C00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14: the smallest normal fp16
    half = (magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  } else {
    // Adding 0.5 leaves the subnormal fp16 in the sum's low bits, correctly rounded.
    half = FloatToBits(BitsToFloat(magnitude) + 0.5f) - FloatToBits(0.5f);
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace
}  // namespace tessera::kernels::cpu
