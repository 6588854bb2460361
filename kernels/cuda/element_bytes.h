// Bytes of an element, for the host code of this folder.
#pragma once

#include <cstdint>

#include "tessera/attention.h"

namespace tessera::kernels::cuda {

inline int64_t ElementBytes(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return 4;
    case TESSERA_DTYPE_FP16:
    case TESSERA_DTYPE_BF16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace tessera::kernels::cuda
