// What the dispatch takes for granted of the tables of compiled kernels. Host code, so no GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/fused_kernel.h"

namespace tessera::kernels::cuda {
namespace {

struct NamedTable {
  const char* name;
  FusedKernels kernels;
  KernelFamily family;
};

std::vector<NamedTable> Tables() {
  return {{"fp32", Fp32Kernels(), KernelFamily::kPortable},
          {"fp16", Fp16Kernels(), KernelFamily::kPortable},
          {"bf16", Bf16Kernels(), KernelFamily::kPortable},
          {"Hopper fp16", HopperFp16Kernels(), KernelFamily::kHopper},
          {"Hopper bf16", HopperBf16Kernels(), KernelFamily::kHopper},
          {"Hopper fp8", HopperFp8Kernels(), KernelFamily::kHopper}};
}

std::pair<int32_t, int32_t> DimsOf(const FusedKernel& kernel) {
  return {kernel.head_dim_qk, kernel.head_dim_v};
}

TEST(KernelTableTest, HeadDimsRise) {
  for (const NamedTable& table : Tables()) {
    ASSERT_NE(table.kernels.begin(), table.kernels.end()) << table.name;
    for (const FusedKernel* k = table.kernels.begin(); std::next(k) != table.kernels.end(); ++k)
      EXPECT_LE(DimsOf(*k), DimsOf(*std::next(k))) << table.name << ": " << std::next(k)->name;
  }
}

// The search ends at the first kernel without a measured time, and compares the times of the others.
TEST(KernelTableTest, ShapesForTheSameProblemsAreAllMeasuredOrOnlyOne) {
  for (const NamedTable& table : Tables()) {
    if (table.family != KernelFamily::kHopper) continue;
    for (const FusedKernel& a : table.kernels) {
      EXPECT_GE(a.key_tile_us, 0) << a.name;
      EXPECT_GE(a.row_tile_us, 0) << a.name;
      for (const FusedKernel& b : table.kernels) {
        if (&a == &b || a.logits != b.logits || DimsOf(a) != DimsOf(b)) continue;
        EXPECT_GT(a.key_tile_us, 0) << a.name << " beside " << b.name;
      }
    }
  }
}

// Other logits fall back to these, whatever the head dims.
TEST(KernelTableTest, AnyLogitsReachTheWidestHeadDims) {
  for (const NamedTable& table : Tables()) {
    int32_t widest = 0, widest_any = 0;
    for (const FusedKernel& kernel : table.kernels) {
      widest = std::max({widest, kernel.head_dim_qk, kernel.head_dim_v});
      if (kernel.logits == Logits::kAny)
        widest_any = std::max(widest_any, std::min(kernel.head_dim_qk, kernel.head_dim_v));
    }
    EXPECT_EQ(widest_any, widest) << table.name;
  }
}

TEST(KernelTableTest, EntriesAreWhole) {
  std::set<std::string> names;
  for (const NamedTable& table : Tables()) {
    for (const FusedKernel& kernel : table.kernels) {
      EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name << " occurs twice";
      EXPECT_NE(kernel.function, nullptr) << kernel.name;
      EXPECT_EQ(kernel.family, table.family) << kernel.name;
      EXPECT_GT(kernel.tile_q, 0) << kernel.name;
      EXPECT_GT(kernel.tile_kv, 0) << kernel.name;
      EXPECT_GT(kernel.stages, 0) << kernel.name;
      EXPECT_EQ(kernel.threads % 32, 0) << kernel.name;
      EXPECT_LE(kernel.threads, 1024) << kernel.name;
      EXPECT_GT(kernel.shared_memory_bytes, 0) << kernel.name;
      EXPECT_GE(kernel.blocks_per_multiprocessor, 1) << kernel.name;
    }
  }
}

}  // namespace
}  // namespace tessera::kernels::cuda
