#include "tests/conformance/number_formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tessera::testing {
namespace {

// A binary format: sign, exponent, fraction.
struct Format {
  int exponent_bits, fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int max_exponent() const { return (1 << exponent_bits) - 1; }  // of infinities and NaN
};
constexpr Format kFp16{.exponent_bits = 5, .fraction_bits = 10};
constexpr Format kBf16{.exponent_bits = 8, .fraction_bits = 7};
constexpr Format kFp8{.exponent_bits = 4, .fraction_bits = 3};  // no infinities, one NaN of each sign

// Of 16 bits.
double Decode(Format format, uint16_t bits) {
  const int exponent = bits >> format.fraction_bits & format.max_exponent();
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == format.max_exponent()) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  const int implicit = exponent == 0 ? 0 : 1 << format.fraction_bits;
  return sign * std::ldexp(implicit + fraction, std::max(exponent, 1) - format.bias() - format.fraction_bits);
}

// The exponent and fraction fields of |value|, rounded; what lies past the largest number is past its fields.
double EncodeMagnitude(Format format, double value) {
  // In units of the last place of the value's binade (of the lowest normal binade for subnormals), rounded by
  // the default rounding mode. Adding the count to the exponent field also carries into the next binade, or
  // to infinity.
  const int exponent = std::max(value == 0 ? -10000 : std::ilogb(value), 1 - format.bias());
  const double units = std::nearbyint(std::ldexp(std::fabs(value), format.fraction_bits - exponent));
  return std::ldexp(exponent + format.bias() - 1, format.fraction_bits) + units;
}

uint16_t Encode(Format format, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const auto infinity = static_cast<uint16_t>(format.max_exponent() << format.fraction_bits);
  if (std::isnan(value)) return sign | infinity | static_cast<uint16_t>(1 << (format.fraction_bits - 1));
  if (std::isinf(value)) return sign | infinity;
  return sign | static_cast<uint16_t>(std::min<double>(EncodeMagnitude(format, value), infinity));
}

// The number that an e4m3 code without its sign stands for.
double Fp8Magnitude(int code) {
  if (code == 0x7f) return std::numeric_limits<double>::quiet_NaN();
  const int exponent = code >> 3, fraction = code & 7;
  return exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
}

uint8_t EncodeFp8(double value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  if (std::isinf(value)) return sign | 0x7e;
  return sign | static_cast<uint8_t>(std::min<double>(EncodeMagnitude(kFp8, value), 0x7e));
}

template <typename T>
T Read(const void* data, int64_t index) {
  T element;
  std::memcpy(&element, static_cast<const T*>(data) + index, sizeof(T));
  return element;
}

template <typename T>
void Write(void* data, int64_t index, T element) {
  std::memcpy(static_cast<T*>(data) + index, &element, sizeof(T));
}

}  // namespace

double ReadElement(const void* data, tessera_dtype dtype, int64_t index) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return Read<float>(data, index);
    case TESSERA_DTYPE_FP16:
      return Decode(kFp16, Read<uint16_t>(data, index));
    case TESSERA_DTYPE_BF16:
      return Decode(kBf16, Read<uint16_t>(data, index));
    case TESSERA_DTYPE_FP8_E4M3: {
      const uint8_t code = Read<uint8_t>(data, index);
      return (code & 0x80) != 0 ? -Fp8Magnitude(code & 0x7f) : Fp8Magnitude(code);
    }
    case TESSERA_DTYPE_BOOL:
      return Read<uint8_t>(data, index) != 0 ? 1.0 : 0.0;
    default:
      return std::numeric_limits<double>::quiet_NaN();
  }
}

void WriteElement(void* data, tessera_dtype dtype, int64_t index, double value) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return Write(data, index, static_cast<float>(value));
    case TESSERA_DTYPE_FP16:
      return Write(data, index, Encode(kFp16, value));
    case TESSERA_DTYPE_BF16:
      return Write(data, index, Encode(kBf16, value));
    case TESSERA_DTYPE_FP8_E4M3:
      return Write(data, index, EncodeFp8(value));
    default:
      return;
  }
}

double UnitRoundoff(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      return 0x1p-11;
    case TESSERA_DTYPE_BF16:
      return 0x1p-8;
    default:
      return 0x1p-24;
  }
}

double SmallestNormal(tessera_dtype dtype) { return dtype == TESSERA_DTYPE_FP16 ? 0x1p-14 : 0x1p-126; }

}  // namespace tessera::testing
