#include "kernels/cpu/element_access.h"

#include <bit>
#include <cmath>

#include "tessera/e4m3.hpp"

namespace tessera::kernels::cpu::standard {
namespace {

struct Fp32 {
  using Storage = float;
  static float Decode(float element) { return element; }
  static float Encode(float value) { return value; }
};

struct Bf16 {
  using Storage = uint16_t;
  static float Decode(uint16_t element) { return std::bit_cast<float>(uint32_t{element} << 16); }
  static uint16_t Encode(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if (value != value)
      return static_cast<uint16_t>(bits >> 16 | 0x40);  // quiet, even if its payload was low
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
};

struct Fp16 {
  using Storage = uint16_t;
  static float Decode(uint16_t element) {
    // The exponent moves from bias 15 to 127 by a multiplication, which normalises subnormals on the way.
    const uint32_t magnitude = uint32_t{element} & 0x7fff;
    const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    const uint32_t infinite_or_nan = magnitude >= 0x7c00 ? 0x7f800000u : 0u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | infinite_or_nan |
                                (uint32_t{element} & 0x8000) << 16);
  }
  static uint16_t Encode(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) {
      half = 0x7e00 | (magnitude >> 13 & 0x3ff);  // NaN
    } else if (magnitude >= 0x477ff000) {
      half = 0x7c00;  // rounds to 65536 or more
    } else if (magnitude < 0x38800000) {
      // Subnormal: adding 0.5 leaves a multiple of 2^-24 in the low bits, rounded to nearest even by the
      // addition.
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      half = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f);
    } else {
      half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    }
    return static_cast<uint16_t>(sign | half);
  }
};

struct Fp8 {  // inputs only
  using Storage = uint8_t;
  static float Decode(uint8_t code) { return E4M3ToFloat(code); }
};

// `value` as a float whose last bit is set when it is inexact ("round to odd"), so that rounding it again to
// 11 bits or fewer gives what rounding the double once would have given.
float RoundToOdd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !std::isfinite(nearest)) return nearest;
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1);
}

template <typename Format>
auto* At(const tessera_tensor& tensor, int64_t token, int64_t head) {
  return static_cast<typename Format::Storage*>(tensor.data) + token * tensor.token_stride +
         head * tensor.head_stride;
}

template <typename Format, typename Real>
void Decode(const typename Format::Storage* __restrict elements, int64_t count, Real* __restrict row) {
  for (int64_t c = 0; c < count; ++c) row[c] = static_cast<Real>(Format::Decode(elements[c]));
}

template <typename Format>
void DecodeStrided(const void* data, int64_t first, int64_t stride, int64_t count, float* __restrict row) {
  const auto* elements = static_cast<const typename Format::Storage*>(data) + first;
  for (int64_t c = 0; c < count; ++c) row[c] = Format::Decode(elements[c * stride]);
}

template <typename Real>
void Load(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, Real* row) {
  switch (tensor.dtype) {
    case TESSERA_DTYPE_FP32:
      return Decode<Fp32>(At<Fp32>(tensor, token, head), count, row);
    case TESSERA_DTYPE_FP16:
      return Decode<Fp16>(At<Fp16>(tensor, token, head), count, row);
    case TESSERA_DTYPE_BF16:
      return Decode<Bf16>(At<Bf16>(tensor, token, head), count, row);
    case TESSERA_DTYPE_FP8_E4M3:
      return Decode<Fp8>(At<Fp8>(tensor, token, head), count, row);
    default:
      return;  // refused by the backend's capabilities
  }
}

template <typename Format, typename Real>
void Encode(const Real* __restrict row, int64_t count, typename Format::Storage* __restrict elements) {
  for (int64_t c = 0; c < count; ++c) {
    if constexpr (sizeof(typename Format::Storage) < sizeof(float) && sizeof(Real) > sizeof(float)) {
      elements[c] = Format::Encode(RoundToOdd(row[c]));
    } else {
      elements[c] = Format::Encode(static_cast<float>(row[c]));
    }
  }
}

template <typename Real>
void Store(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, const Real* row) {
  switch (tensor.dtype) {
    case TESSERA_DTYPE_FP32:
      return Encode<Fp32>(row, count, At<Fp32>(tensor, token, head));
    case TESSERA_DTYPE_FP16:
      return Encode<Fp16>(row, count, At<Fp16>(tensor, token, head));
    case TESSERA_DTYPE_BF16:
      return Encode<Bf16>(row, count, At<Bf16>(tensor, token, head));
    default:
      return;
  }
}

}  // namespace

void LoadRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, float* row) {
  Load(tensor, token, head, count, row);
}
void LoadRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, double* row) {
  Load(tensor, token, head, count, row);
}
void StoreRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, const float* row) {
  Store(tensor, token, head, count, row);
}
void StoreRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, const double* row) {
  Store(tensor, token, head, count, row);
}

void LoadStrided(const void* data, tessera_dtype dtype, int64_t first, int64_t stride, int64_t count,
                 float* row) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return DecodeStrided<Fp32>(data, first, stride, count, row);
    case TESSERA_DTYPE_FP16:
      return DecodeStrided<Fp16>(data, first, stride, count, row);
    case TESSERA_DTYPE_BF16:
      return DecodeStrided<Bf16>(data, first, stride, count, row);
    default:
      return;
  }
}

double ScaleOf(const tessera_scales& scales, int64_t sequence, int64_t head) {
  return scales.data == nullptr
             ? 1.0
             : static_cast<double>(
                   scales.data[sequence * scales.sequence_stride + head * scales.head_stride]);
}

}  // namespace tessera::kernels::cpu::standard
