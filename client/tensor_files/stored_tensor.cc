#include "client/tensor_files/stored_tensor.h"

#include <cstring>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/tensor_files/float_bits.h"

namespace tessera::client {
namespace {

DType WireType(Element element) {
  switch (element) {
    case Element::kFp32:
      return v1::DATA_TYPE_FP32;
    case Element::kFp16:
      return v1::DATA_TYPE_FP16;
    case Element::kBf16:
      return v1::DATA_TYPE_BF16;
    case Element::kFp8E4M3:
      return v1::DATA_TYPE_FP8_E4M3;
    case Element::kBool:
      return v1::DATA_TYPE_BOOL;
    default:
      return v1::DATA_TYPE_UNSPECIFIED;
  }
}

// Whether the file's integers may be the bits of `dtype`.
bool IsBitsOf(Element element, DType dtype) {
  return (element == Element::kUint16 && (dtype == v1::DATA_TYPE_BF16 || dtype == v1::DATA_TYPE_FP16)) ||
         (element == Element::kUint8 && (dtype == v1::DATA_TYPE_FP8_E4M3 || dtype == v1::DATA_TYPE_BOOL));
}

template <typename T>
T LoadAt(const std::string& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

float FloatAt(const StoredTensor& stored, size_t i) {
  switch (stored.element) {
    case Element::kFp64:
      return static_cast<float>(LoadAt<double>(stored.bytes, i));
    case Element::kFp32:
      return LoadAt<float>(stored.bytes, i);
    case Element::kFp16:
      return Fp16ToFloat(LoadAt<uint16_t>(stored.bytes, i));
    default:
      return Bf16ToFloat(LoadAt<uint16_t>(stored.bytes, i));
  }
}

std::string Convert(const StoredTensor& stored, DType dtype) {
  const size_t count = stored.bytes.size() / static_cast<size_t>(ElementSize(stored.element));
  const auto size = static_cast<size_t>(DTypeSize(dtype));
  std::string bytes(count * size, '\0');
  for (size_t i = 0; i < count; ++i) {
    const float value = FloatAt(stored, i);
    const uint16_t half = dtype == v1::DATA_TYPE_BF16 ? FloatToBf16(value) : FloatToFp16(value);
    std::memcpy(bytes.data() + i * size, size == 4 ? static_cast<const void*>(&value) : &half, size);
  }
  return bytes;
}

}  // namespace

int64_t ElementSize(Element element) {
  switch (element) {
    case Element::kFp64:
      return 8;
    case Element::kFp32:
      return 4;
    case Element::kFp16:
    case Element::kBf16:
    case Element::kUint16:
      return 2;
    case Element::kFp8E4M3:
    case Element::kUint8:
    case Element::kBool:
      return 1;
    case Element::kUnsupported:
      break;
  }
  return 0;
}

bool IsFloating(Element element) {
  return element == Element::kFp64 || element == Element::kFp32 || element == Element::kFp16 ||
         element == Element::kBf16;
}

absl::StatusOr<Tensor> ToTensor(StoredTensor stored, std::optional<DType> as) {
  const DType own = WireType(stored.element);
  if (own != v1::DATA_TYPE_UNSPECIFIED && (!as || *as == own)) {
    return Tensor{own, std::move(stored.shape), std::move(stored.bytes)};
  }
  if (!as) {
    const char* fix = stored.element == Element::kFp64     ? "pass --dtype=fp32 (or fp16, bf16) to convert it"
                      : stored.element == Element::kUint16 ? "pass --dtype=bf16 if it holds bf16 bits"
                      : stored.element == Element::kUint8  ? "pass --dtype=fp8_e4m3 if it holds fp8 bits"
                                                           : "save it as fp32, fp16, bf16 or bool";
    return absl::InvalidArgumentError(
        absl::StrCat("element type '", stored.element_name, "' cannot be sent; ", fix));
  }
  if (IsBitsOf(stored.element, *as)) return Tensor{*as, std::move(stored.shape), std::move(stored.bytes)};
  const bool to_floating =
      *as == v1::DATA_TYPE_FP32 || *as == v1::DATA_TYPE_FP16 || *as == v1::DATA_TYPE_BF16;
  if (!IsFloating(stored.element) || !to_floating) {
    return absl::InvalidArgumentError(absl::StrCat("element type '", stored.element_name,
                                                   "' cannot be turned into --dtype=", DTypeName(*as)));
  }
  return Tensor{*as, std::move(stored.shape), Convert(stored, *as)};
}

}  // namespace tessera::client
