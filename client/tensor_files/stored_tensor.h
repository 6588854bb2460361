// A tensor as a file describes it, before it is known whether the wire has its element type.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/tensor.h"

namespace tessera::client {

enum class Element { kUnsupported, kFp64, kFp32, kFp16, kBf16, kUint16, kFp8E4M3, kUint8, kBool };

// Bytes of one element; 0 for kUnsupported, whose size only the file's format knows.
int64_t ElementSize(Element element);

// Whether its elements are numbers that can be converted to another floating type: all but fp8 and bits.
bool IsFloating(Element element);

struct StoredTensor {
  Element element = Element::kUnsupported;
  std::string element_name;  // as the file calls it: "<f4", "BF16"
  std::vector<int64_t> shape;
  std::string bytes;
};

using StoredTensors = std::map<std::string, StoredTensor>;

// The tensor to send. Without `as`, the file's own type: fp32, fp16, bf16, fp8_e4m3 or bool. With it, the
// floating types are converted (through fp32, to nearest even), and uint16 and uint8 arrays, which is how
// NumPy users keep bf16 and fp8 without ml_dtypes, are taken for the bits of `as`. INVALID_ARGUMENT says what
// to do about any other.
absl::StatusOr<Tensor> ToTensor(StoredTensor stored, std::optional<DType> as);

}  // namespace tessera::client
