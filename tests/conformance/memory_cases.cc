#include <string>
#include <utility>

#include "backend/core/dtype.h"
#include "tests/conformance/case_grid.h"

namespace tessera::testing {
namespace {

constexpr WindowSpec kCausal{.right = 0};

// Masks of several key tiles, the last one not full. What lies between their rows is true, or NaN.
void AddAlignedMasks(tessera_dtype dtype, std::vector<ProblemSpec>& cases) {
  const std::pair<tessera_mask_kind, tessera_dtype> kMasks[] = {
      {TESSERA_MASK_BOOLEAN, TESSERA_DTYPE_BOOL},
      {TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_FP16},
      {TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_BF16},
      {TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_FP32},
  };
  struct Variant {
    const char* name;
    WindowSpec window;
    Values values;
  };
  const Variant kVariants[] = {{"", {}, Values::kUnitNormal},
                               {"_nan_in_hidden_keys", {}, Values::kNanInHiddenKeys},
                               {"_causal", kCausal, Values::kUnitNormal}};
  for (const auto& [kind, mask_dtype] : kMasks) {
    for (int64_t alignment = 16; alignment >= 2 && alignment >= DTypeSize(mask_dtype); alignment /= 2) {
      for (const Variant& variant : kVariants) {
        // Kernels of tensor cores read masks in ways of their own.
        if (dtype == TESSERA_DTYPE_FP32 && variant.name[0] != '\0') continue;
        cases.push_back({.name = DTypeName(dtype) + "_mask_" + DTypeName(mask_dtype) + "_aligned_to_" +
                                 std::to_string(alignment) + variant.name,
                         .dtype = dtype,
                         .num_q_heads = 2,
                         .num_kv_heads = 1,
                         .head_dim_qk = 16,
                         .head_dim_v = 16,
                         .sequences = {{35, 300}, {3, 96}},
                         .window = variant.window,
                         .mask = {.kind = kind, .dtype = mask_dtype, .row_alignment = alignment},
                         .values = variant.values});
      }
    }
  }
}

// The kernels for wide head dims read masks in tiles of other shapes.
void AddWideHeadDims(tessera_dtype dtype, std::vector<ProblemSpec>& cases) {
  for (int32_t dim : {128, 256}) {
    for (const tessera_dtype mask : {TESSERA_DTYPE_BOOL, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP32}) {
      const bool is_boolean = mask == TESSERA_DTYPE_BOOL;
      cases.push_back(
          {.name = DTypeName(dtype) + "_mask_" + DTypeName(mask) + "_aligned_to_16_d" + std::to_string(dim),
           .dtype = dtype,
           .num_q_heads = 2,
           .num_kv_heads = 1,
           .head_dim_qk = dim,
           .head_dim_v = dim,
           .sequences = {{11, 300}},
           .mask = {.kind = is_boolean ? TESSERA_MASK_BOOLEAN : TESSERA_MASK_ADDITIVE,
                    .dtype = mask,
                    .row_alignment = 16}});
    }
  }
}

void AddLayouts(tessera_dtype dtype, std::vector<ProblemSpec>& cases) {
  const auto add = [&](const std::string& name, Layout layout, int32_t q_heads, int32_t kv_heads,
                       int32_t dim) {
    cases.push_back({.name = DTypeName(dtype) + "_" + name + "_d" + std::to_string(dim) + "_h" +
                             std::to_string(q_heads) + "x" + std::to_string(kv_heads),
                     .dtype = dtype,
                     .num_q_heads = q_heads,
                     .num_kv_heads = kv_heads,
                     .head_dim_qk = dim,
                     .head_dim_v = dim,
                     .sequences = {{45, 100}, {0, 5}, {1, 70}, {19, 19}},
                     .layout = layout,
                     .window = kCausal});
  };
  for (int32_t dim : {64, 128, 192}) add("fused_qkv", Layout::kFusedQkv, 6, 2, dim);
  add("fused_qkv", Layout::kFusedQkv, 3, 3, 64);
  // Not aligned, for all that the layout is.
  add("fused_qkv", Layout::kFusedQkv, 6, 2, 100);
  for (int32_t dim : {63, 100, 127}) {
    add("padded_rows", Layout::kPaddedRows, 6, 2, dim);
    add("padded_rows", Layout::kPaddedRows, 3, 3, dim);
  }
  for (int32_t dim : {34, 66}) add("packed", Layout::kPacked, 6, 2, dim);
}

}  // namespace

std::vector<ProblemSpec> MemoryCases() {
  std::vector<ProblemSpec> cases;
  for (tessera_dtype dtype :
       {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP8_E4M3}) {
    AddAlignedMasks(dtype, cases);
    if (dtype != TESSERA_DTYPE_FP32) AddWideHeadDims(dtype, cases);
    AddLayouts(dtype, cases);
  }
  return cases;
}

}  // namespace tessera::testing
