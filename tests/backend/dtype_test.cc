#include "backend/core/dtype.h"

#include <limits>

#include "gtest/gtest.h"

namespace tessera {
namespace {

TEST(DTypeTest, SizesAndNames) {
  EXPECT_EQ(DTypeSize(TESSERA_DTYPE_FP32), 4);
  EXPECT_EQ(DTypeSize(TESSERA_DTYPE_FP16), 2);
  EXPECT_EQ(DTypeSize(TESSERA_DTYPE_BF16), 2);
  EXPECT_EQ(DTypeSize(TESSERA_DTYPE_FP8_E4M3), 1);
  EXPECT_EQ(DTypeSize(TESSERA_DTYPE_BOOL), 1);
  EXPECT_EQ(DTypeName(TESSERA_DTYPE_FP8_E4M3), "fp8_e4m3");
}

TEST(DTypeTest, UnknownValuesHaveNoSizeAndNoBit) {
  for (int32_t value :
       {0, -1, 6, 31, 32, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    const auto dtype = static_cast<DType>(value);
    EXPECT_EQ(DTypeSize(dtype), 0);
    EXPECT_EQ(DTypeBit(dtype), 0u);
    EXPECT_EQ(DTypeName(dtype), "invalid(" + std::to_string(value) + ")");
  }
}

TEST(DTypeTest, SetNames) {
  EXPECT_EQ(DTypeSetNames(0), "none");
  EXPECT_EQ(DTypeSetNames(DTypeBit(TESSERA_DTYPE_BF16) | DTypeBit(TESSERA_DTYPE_FP32)), "fp32, bf16");
}

}  // namespace
}  // namespace tessera
