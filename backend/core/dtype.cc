#include "backend/core/dtype.h"

#include "absl/strings/str_cat.h"

namespace tessera {

int64_t DTypeSize(DType dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return 4;
    case TESSERA_DTYPE_FP16:
    case TESSERA_DTYPE_BF16:
      return 2;
    case TESSERA_DTYPE_FP8_E4M3:
    case TESSERA_DTYPE_BOOL:
      return 1;
    case TESSERA_DTYPE_INVALID:
      break;
  }
  return 0;
}

std::string DTypeName(DType dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return "fp32";
    case TESSERA_DTYPE_FP16:
      return "fp16";
    case TESSERA_DTYPE_BF16:
      return "bf16";
    case TESSERA_DTYPE_FP8_E4M3:
      return "fp8_e4m3";
    case TESSERA_DTYPE_BOOL:
      return "bool";
    case TESSERA_DTYPE_INVALID:
      break;
  }
  return absl::StrCat("invalid(", static_cast<int32_t>(dtype), ")");
}

std::string DTypeSetNames(uint32_t bits) {
  std::string names;
  for (DType dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP8_E4M3,
                      TESSERA_DTYPE_BOOL}) {
    if ((bits & DTypeBit(dtype)) == 0) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", DTypeName(dtype));
  }
  return names.empty() ? "none" : names;
}

}  // namespace tessera
