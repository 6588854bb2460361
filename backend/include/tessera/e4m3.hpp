// fp8 e4m3 (finite only, "e4m3fn") as codes: sign, four exponent bits of bias 7, three bits of fraction. The
// largest magnitude is 448 (0x7e), the smallest 2^-9 (0x01); 0x7f and 0xff are NaN, infinities there are
// none. Header-only, C++17, standard library only.
#pragma once

#include <cstdint>
#include <cstring>

namespace tessera {

inline constexpr float kE4M3Max = 448;

// Exact; NaN for 0x7f and 0xff.
inline float E4M3ToFloat(uint8_t code) {
  const uint32_t sign = uint32_t{code & 0x80u} << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude < 8) {  // zero or subnormal, in units of 2^-9
    const float value = static_cast<float>(magnitude) * 0x1p-9f;
    return sign != 0 ? -value : value;
  }
  const uint32_t bits = sign | (magnitude == 0x7f ? 0x7fc00000u : (magnitude << 20) + (120u << 23));
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest, ties to even; past 448, infinities included, becomes 448; NaN stays NaN.
inline uint8_t FloatToE4M3(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  uint32_t code;
  if (magnitude > 0x7f800000u) {
    code = 0x7f;
  } else if (magnitude >= 0x43e00000u) {  // 448
    code = 0x7e;
  } else if (magnitude < 0x3c800000u) {  // below 2^-6, the smallest normal number
    // fp32 holds numbers in [2^14, 2^15) as multiples of 2^-9: the sum's low bits are the rounded subnormal.
    float shifted;
    std::memcpy(&shifted, &magnitude, sizeof shifted);
    shifted += 0x1p14f;
    std::memcpy(&code, &shifted, sizeof code);
    code -= 0x46800000u;  // 2^14
  } else {
    code = (magnitude - (120u << 23) + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
  }
  return static_cast<uint8_t>(sign | code);
}

}  // namespace tessera
