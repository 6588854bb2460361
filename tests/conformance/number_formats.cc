#include "tests/conformance/number_formats.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tessera::testing {
namespace {

// A binary format of 16 bits: sign, exponent, fraction.
struct Format {
  int exponent_bits, fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int max_exponent() const { return (1 << exponent_bits) - 1; }  // of infinities and NaN
};
constexpr Format kFp16{.exponent_bits = 5, .fraction_bits = 10};
constexpr Format kBf16{.exponent_bits = 8, .fraction_bits = 7};

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

uint16_t Encode(Format format, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const auto infinity = static_cast<uint16_t>(format.max_exponent() << format.fraction_bits);
  if (std::isnan(value)) return sign | infinity | static_cast<uint16_t>(1 << (format.fraction_bits - 1));
  if (std::isinf(value)) return sign | infinity;
  // In units of the last place of the value's binade (of the lowest normal binade for subnormals), rounded by
  // the default rounding mode. Adding the count to the exponent field also carries into the next binade, or
  // to infinity.
  const int exponent = std::max(value == 0 ? -10000 : std::ilogb(value), 1 - format.bias());
  const double units = std::nearbyint(std::ldexp(std::fabs(value), format.fraction_bits - exponent));
  const double field = std::ldexp(exponent + format.bias() - 1, format.fraction_bits) + units;
  return sign | static_cast<uint16_t>(std::min<double>(field, infinity));
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
