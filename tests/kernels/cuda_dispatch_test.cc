// Which fused CUDA kernel runs a problem, and what its launch carries: host code, so no GPU is needed.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/fused_attention.h"

namespace tessera::kernels::cuda {
namespace {

constexpr DeviceTraits kHopper{.compute_capability = 90,
                               .multiprocessors = 132,
                               .shared_memory_per_block = 227 << 10,
                               .shared_memory_per_multiprocessor = 228 << 10,
                               .l2_bytes = 50 << 20};
constexpr DeviceTraits kAmpere{.compute_capability = 80,
                               .multiprocessors = 108,
                               .shared_memory_per_block = 163 << 10,
                               .shared_memory_per_multiprocessor = 164 << 10,
                               .l2_bytes = 40 << 20};
constexpr DeviceTraits kAda{.compute_capability = 89,
                            .multiprocessors = 58,
                            .shared_memory_per_block = 99 << 10,
                            .shared_memory_per_multiprocessor = 100 << 10,
                            .l2_bytes = 48 << 20};

// Shapes without memory behind them, as a dry run has.
struct Shapes {
  tessera_attention_problem problem{};
  std::vector<tessera_sequence> sequences;
  std::vector<float> per_head;

  explicit Shapes(tessera_dtype dtype = TESSERA_DTYPE_BF16, int32_t head_dim = 128,
                  int64_t num_sequences = 1) {
    problem.struct_size = sizeof problem;
    problem.num_q_heads = 8;
    problem.num_kv_heads = 2;
    problem.scale = 0.1f;
    SetHeadDims(head_dim, head_dim);
    for (tessera_tensor* t : {&problem.q, &problem.k, &problem.v, &problem.o}) t->dtype = dtype;
    tessera_sequence sequence{};
    sequence.q_len = sequence.kv_len = 300;
    sequence.window_left = sequence.window_right = -1;
    sequences.assign(static_cast<size_t>(num_sequences), sequence);
    problem.sequences = sequences.data();
    problem.num_sequences = num_sequences;
    per_head.assign(8, 0.5f);
  }

  // Few rows: what the shapes for long sequences are not for.
  void MakeShort() {
    problem.num_kv_heads = problem.num_q_heads;
    sequences[0].q_len = sequences[0].kv_len = 100;
  }

  void SetHeadDims(int32_t qk, int32_t v) {
    problem.head_dim_qk = qk;
    problem.head_dim_v = v;
    problem.q.token_stride = problem.k.token_stride = problem.q.head_stride = problem.k.head_stride = qk;
    problem.v.token_stride = problem.o.token_stride = problem.v.head_stride = problem.o.head_stride = v;
  }

  // Rows of the mask `row_elements` apart.
  void SetMask(tessera_mask_kind kind, tessera_dtype dtype, int64_t row_elements, int64_t kv_stride = 1) {
    problem.mask_kind = kind;
    problem.mask_dtype = dtype;
    for (tessera_sequence& s : sequences) {
      s.mask_q_stride = row_elements;
      s.mask_kv_stride = kv_stride;
    }
  }

  std::string Kernel(const DeviceTraits& traits = kHopper) const {
    const FusedChoice choice = ChooseFused(problem, traits);
    return choice.kernel != nullptr ? choice.kernel : "refused: " + choice.refusal;
  }
};

TEST(PortableDispatchTest, TakesTheNarrowestKernelThatHoldsBothHeadDims) {
  Shapes shapes;
  const std::pair<std::pair<int, int>, const char*> expected[] = {
      {{16, 16}, "tessera_fused_bf16_d64"},    {{64, 64}, "tessera_fused_bf16_d64"},
      {{65, 64}, "tessera_fused_bf16_d96"},    {{96, 96}, "tessera_fused_bf16_d96"},
      {{104, 8}, "tessera_fused_bf16_d128"},   {{8, 128}, "tessera_fused_bf16_d128"},
      {{192, 128}, "tessera_fused_bf16_d192"}, {{200, 200}, "tessera_fused_bf16_d256"},
      {{256, 256}, "tessera_fused_bf16_d256"}};
  for (const auto& [dims, kernel] : expected) {
    shapes.SetHeadDims(dims.first, dims.second);
    EXPECT_EQ(shapes.Kernel(kAmpere), kernel) << dims.first << "/" << dims.second;
  }
  shapes.SetHeadDims(264, 64);
  EXPECT_EQ(shapes.Kernel(kAmpere),
            "refused: no kernel for head dims 264 and 64, expected at most 256, of this dtype");
}

TEST(HopperDispatchTest, TakesTheNarrowestKernelThatHoldsBothHeadDims) {
  Shapes shapes;
  shapes.MakeShort();
  const std::pair<std::pair<int, int>, const char*> expected[] = {
      {{16, 16}, "tessera_hopper_bf16_d64_short"}, {{65, 64}, "tessera_hopper_bf16_d96"},
      {{96, 96}, "tessera_hopper_bf16_d96"},       {{104, 8}, "tessera_hopper_bf16_d128"},
      {{8, 128}, "tessera_hopper_bf16_d128"},      {{192, 128}, "tessera_hopper_bf16_d192_128"},
      {{128, 192}, "tessera_hopper_bf16_d192"},    {{192, 192}, "tessera_hopper_bf16_d192"},
      {{200, 200}, "tessera_hopper_bf16_d256"},    {{256, 256}, "tessera_hopper_bf16_d256"}};
  for (const auto& [dims, kernel] : expected) {
    shapes.SetHeadDims(dims.first, dims.second);
    EXPECT_EQ(shapes.Kernel(), kernel) << dims.first << "/" << dims.second;
  }
}

TEST(HopperDispatchTest, TakesTheShapeForTheLength) {
  const auto kernel = [](int32_t head_dim, int64_t length, bool causal) {
    Shapes shapes(TESSERA_DTYPE_BF16, head_dim);
    shapes.problem.num_kv_heads = shapes.problem.num_q_heads;
    shapes.sequences[0].q_len = shapes.sequences[0].kv_len = length;
    if (causal) shapes.sequences[0].window_right = 0;
    return shapes.Kernel();
  };
  EXPECT_EQ(kernel(64, 1024, true), "tessera_hopper_bf16_d64_short");
  EXPECT_EQ(kernel(64, 4096, true), "tessera_hopper_bf16_d64");
  EXPECT_EQ(kernel(64, 512, false), "tessera_hopper_bf16_d64");
  EXPECT_EQ(kernel(128, 512, true), "tessera_hopper_bf16_d128");
  EXPECT_EQ(kernel(128, 1024, false), "tessera_hopper_bf16_d128");
  EXPECT_EQ(kernel(128, 32768, true), "tessera_hopper_bf16_d128_long");
  EXPECT_EQ(kernel(128, 16384, false), "tessera_hopper_bf16_d128_long");
}

TEST(HopperDispatchTest, EveryFeatureHasAKernelOfItsOwn) {
  for (const auto& [dtype, name] : {std::pair{TESSERA_DTYPE_FP16, "fp16"}, {TESSERA_DTYPE_BF16, "bf16"}}) {
    const auto kernel_with = [&](auto change) {
      Shapes shapes(dtype);
      shapes.MakeShort();
      change(shapes);
      return shapes.Kernel();
    };
    const std::string plain = std::string("tessera_hopper_") + name + "_d128";
    EXPECT_EQ(kernel_with([](Shapes& s) { s.sequences[0].window_right = 0; }), plain);
    EXPECT_EQ(kernel_with([](Shapes& s) { s.sequences[0].window_left = 64; }), plain);
    EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.sinks = s.per_head.data(); }), plain);
    EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.softcap = 30; }), plain + "_softcap");
    EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.alibi_slopes = s.per_head.data(); }), plain + "_alibi");
    EXPECT_EQ(kernel_with([](Shapes& s) { s.SetMask(TESSERA_MASK_BOOLEAN, TESSERA_DTYPE_BOOL, 100); }),
              plain + "_mask");
    EXPECT_EQ(kernel_with([](Shapes& s) { s.SetMask(TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_BF16, 100); }),
              plain + "_mask");
    EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.scale = 0; }), plain + "_any");
    EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.scale = -1; }), plain + "_any");
    EXPECT_EQ(kernel_with([](Shapes& s) {
                s.problem.softcap = 30;
                s.problem.alibi_slopes = s.per_head.data();
              }),
              plain + "_any");
  }
}

TEST(HopperDispatchTest, MasksWithoutAlignedRowsTakeTheGeneralKernel) {
  struct Case {
    tessera_dtype dtype;
    int64_t row_elements, kv_stride;
    bool aligned;
  };
  for (const Case& c : {Case{TESSERA_DTYPE_BF16, 102, 1, true}, Case{TESSERA_DTYPE_BF16, 101, 1, false},
                        Case{TESSERA_DTYPE_BF16, 1, 104, false}, Case{TESSERA_DTYPE_BOOL, 102, 1, false},
                        Case{TESSERA_DTYPE_BOOL, 104, 1, true}, Case{TESSERA_DTYPE_FP32, 102, 1, true},
                        Case{TESSERA_DTYPE_FP32, 101, 1, true}}) {
    Shapes shapes;
    shapes.SetMask(c.dtype == TESSERA_DTYPE_BOOL ? TESSERA_MASK_BOOLEAN : TESSERA_MASK_ADDITIVE, c.dtype,
                   c.row_elements, c.kv_stride);
    EXPECT_EQ(shapes.Kernel(), std::string("tessera_hopper_bf16_d128_") + (c.aligned ? "mask" : "any"))
        << c.dtype << " " << c.row_elements << " " << c.kv_stride;
  }
}

TEST(HopperDispatchTest, WhereAMaskLiesDoesNotChangeTheKernel) {
  Shapes shapes;
  shapes.SetMask(TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_BF16, 304);
  shapes.sequences[0].mask = reinterpret_cast<const void*>(uintptr_t{0x1002});
  EXPECT_EQ(shapes.Kernel(), "tessera_hopper_bf16_d128_mask");
  EXPECT_EQ(MaskAlignment(shapes.problem, /*with_data=*/false), 16);
  EXPECT_EQ(MaskAlignment(shapes.problem, /*with_data=*/true), 1);
}

TEST(HopperDispatchTest, AnEmptySequenceSaysNothingOfMasks) {
  Shapes shapes(TESSERA_DTYPE_BF16, 128, 2);
  shapes.SetMask(TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_BF16, 304);
  shapes.sequences[1].kv_len = shapes.sequences[1].mask_kv_stride = 0;
  EXPECT_EQ(shapes.Kernel(), "tessera_hopper_bf16_d128_mask");
}

TEST(HopperDispatchTest, NothingOf16BitsFallsToThePortableKernel) {
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (int32_t dim = 1; dim <= kFusedMaxHeadDim; ++dim) {
      for (int feature = 0; feature < 5; ++feature) {
        Shapes shapes(dtype, dim);
        if (feature == 1) shapes.problem.softcap = 30;
        if (feature == 2) shapes.problem.alibi_slopes = shapes.per_head.data();
        if (feature == 3) shapes.SetMask(TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_BF16, 304);
        if (feature == 4) shapes.problem.scale = -1;
        ASSERT_EQ(shapes.Kernel().rfind("tessera_hopper_", 0), 0u) << shapes.Kernel() << " " << dim;
      }
    }
  }
}

TEST(FusedDispatchTest, RefusesFp8WhereThereIsNoHopper) {
  const Shapes shapes(TESSERA_DTYPE_FP8_E4M3);
  EXPECT_EQ(shapes.Kernel(), "tessera_hopper_fp8_d128");
  DeviceTraits blackwell = kHopper;
  blackwell.compute_capability = 100;
  const std::pair<DeviceTraits, const char*> others[] = {
      {kAmpere, "8.0"}, {kAda, "8.9"}, {blackwell, "10.0"}};
  for (const auto& [traits, capability] : others) {
    EXPECT_EQ(shapes.Kernel(traits), std::string("refused: fp8 on compute capability ") + capability +
                                         " with head dims 128 and 128, expected 9.0 and at most 256");
  }
}

TEST(FusedDispatchTest, EveryHeadDimHasAKernelInEveryDtypeOnSmallGpusToo) {
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (int32_t dim = 1; dim <= kFusedMaxHeadDim; ++dim) {
      const FusedChoice choice = ChooseFused(Shapes(dtype, dim).problem, kAda);
      ASSERT_NE(choice.kernel, nullptr) << dtype << " " << dim << ": " << choice.refusal;
      EXPECT_LE(choice.shared_memory_bytes, kAda.shared_memory_per_block);
      EXPECT_GE(choice.blocks_per_multiprocessor, 1);
    }
  }
  EXPECT_EQ(Shapes(TESSERA_DTYPE_BF16, 256).Kernel(kAda), "tessera_fused_bf16_d256_narrow");
}

TEST(PortableDispatchTest, OnlyLogitFeaturesTakeTheKernelWithFeatures) {
  const auto kernel_with = [](auto change) {
    Shapes shapes(TESSERA_DTYPE_FP16);
    change(shapes);
    return shapes.Kernel(kAmpere);
  };
  const std::string plain = "tessera_fused_fp16_d128", featured = plain + "_features";
  EXPECT_EQ(kernel_with([](Shapes& s) { s.sequences[0].window_right = 0; }), plain);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.sequences[0].window_left = 64; }), plain);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.sinks = s.per_head.data(); }), plain);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.softcap = 30; }), featured);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.alibi_slopes = s.per_head.data(); }), featured);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.mask_kind = TESSERA_MASK_BOOLEAN; }), featured);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.scale = 0; }), featured);
  EXPECT_EQ(kernel_with([](Shapes& s) { s.problem.scale = -1; }), featured);
}

TEST(FusedDispatchTest, NeedsNoWorkspaceUntilTheTablesOutgrowTheParameters) {
  EXPECT_EQ(ChooseFused(Shapes(TESSERA_DTYPE_BF16, 128, 32).problem, kHopper).workspace_bytes, 0);
  const FusedChoice many = ChooseFused(Shapes(TESSERA_DTYPE_BF16, 128, 1000).problem, kHopper);
  EXPECT_EQ(many.workspace_bytes, 1000 * static_cast<int64_t>(sizeof(DeviceSequence)));
}

TEST(FusedDispatchTest, RefusesWhatInt32CannotIndex) {
  Shapes shapes;
  shapes.sequences[0].kv_len = kMaxPosition;
  EXPECT_EQ(shapes.Kernel(), "refused: 1073741824 keys of sequence 0, expected fewer than 1073741824");
  shapes.sequences[0].kv_len = 300;
  shapes.sequences[0].q_len = kMaxPosition / 4;
  EXPECT_EQ(shapes.Kernel(), "refused: 268435456 queries of sequence 0, expected fewer than 268435456");
  shapes.sequences[0].q_len = 300;
  shapes.sequences[0].diagonal_offset = int64_t{1} << 39;
  EXPECT_EQ(shapes.Kernel().rfind("tessera_", 0), 0u)
      << shapes.Kernel();  // a window that far away hides all, or nothing
  shapes.problem.alibi_slopes = shapes.per_head.data();
  EXPECT_EQ(shapes.Kernel(),
            "refused: 549755813888 as ALiBi's diagonal offset of sequence 0, expected fewer than 1073741824");
}

TEST(DeviceProblemTest, CutsSequencesIntoTilesLongestFirst) {
  Shapes shapes(TESSERA_DTYPE_BF16, 128, 3);
  const int64_t lengths[] = {10, 500, 0};
  for (int n = 0; n < 3; ++n) {
    shapes.sequences[n].q_len = shapes.sequences[n].kv_len = lengths[n];
    shapes.sequences[n].q_begin = 1000 * n;
  }
  DeviceProblem device;
  ASSERT_EQ(MakeDeviceProblem(shapes.problem, WholeGroups(shapes.problem, 128), 0, nullptr, nullptr, &device),
            cudaSuccess);
  EXPECT_EQ(device.group, 4);
  EXPECT_EQ(device.tables, nullptr);
  std::vector<DeviceSequence> sequences(3);
  std::memcpy(sequences.data(), device.inline_tables, 3 * sizeof(DeviceSequence));
  EXPECT_EQ(sequences[0].q_begin, 1000);
  EXPECT_EQ(sequences[0].first_tile, 0);
  EXPECT_EQ(sequences[1].q_begin, 0);
  EXPECT_EQ(sequences[1].first_tile, 16);  // 500 queries of 4 heads: 2000 rows
  EXPECT_EQ(device.num_tiles, 17);
}

TEST(DeviceProblemTest, PutsSlopesAndSinksBehindTheSequences) {
  Shapes shapes;
  shapes.problem.alibi_slopes = shapes.per_head.data();
  std::vector<float> sinks = {1, 2, 3, 4, 5, 6, 7, 8};
  shapes.problem.sinks = sinks.data();
  DeviceProblem device;
  ASSERT_EQ(MakeDeviceProblem(shapes.problem, WholeGroups(shapes.problem, 128), 0, nullptr, nullptr, &device),
            cudaSuccess);
  float tables[16];
  std::memcpy(tables, device.inline_tables + sizeof(DeviceSequence), sizeof tables);
  EXPECT_EQ(std::vector<float>(tables, tables + 8), shapes.per_head);
  EXPECT_EQ(std::vector<float>(tables + 8, tables + 16), sinks);
}

// Of 8 query heads, 2 kv heads and three sequences, the second the longest.
struct ScaledShapes : Shapes {
  std::vector<float> q, k, v;
  DeviceProblem device;
  std::vector<std::byte> spilled;

  ScaledShapes() : Shapes(TESSERA_DTYPE_FP8_E4M3, 128, 3), q(24), k(6), v(6) {
    sequences[1].q_len = sequences[1].kv_len = 500;
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(1 + i);
    for (size_t i = 0; i < k.size(); ++i) {
      k[i] = static_cast<float>(100 + i);
      v[i] = static_cast<float>(200 + i);
    }
    problem.q_scales = {q.data(), 8, 1};
    problem.k_scales = {k.data(), 2, 1};
    problem.v_scales = {v.data(), 2, 1};
  }

  void Fill() {
    spilled = FillDeviceProblem(problem, WholeGroups(problem, 128), 0, &device);
    device.tables = spilled.empty() ? nullptr : spilled.data();
  }
};

TEST(DeviceProblemTest, FindsTheScalesOfASortedSequence) {
  ScaledShapes shapes;
  shapes.Fill();
  const int32_t order[] = {1, 0, 2};
  for (int n = 0; n < 3; ++n) {
    const DeviceSequence& sequence = shapes.device.sequences()[n];
    ASSERT_EQ(sequence.number, order[n]);
    for (int head = 0; head < 8; ++head) {
      const int32_t of_q = order[n] * 8 + head, of_k = order[n] * 2 + head / 4;
      EXPECT_FLOAT_EQ(shapes.device.logit_scales(sequence)[head],
                      0.1f * static_cast<float>(1 + of_q) * static_cast<float>(100 + of_k));
    }
    for (int head = 0; head < 2; ++head) {
      EXPECT_EQ(shapes.device.value_scales(sequence)[head], 200 + order[n] * 2 + head);
    }
  }
}

TEST(DeviceProblemTest, ScalesAreOneWhereThereAreNone) {
  ScaledShapes shapes;
  shapes.problem.q_scales = shapes.problem.k_scales = shapes.problem.v_scales = {};
  shapes.Fill();
  EXPECT_EQ(shapes.device.logit_scales(shapes.device.sequences()[2])[7], 0.1f);
  EXPECT_EQ(shapes.device.value_scales(shapes.device.sequences()[2])[1], 1.0f);
}

TEST(DeviceProblemTest, LogitScalesAreFiniteAndZeroOnlyWithAScaleOfZero) {
  ScaledShapes shapes;
  const auto logit_scale = [&](float scale, float of_q, float of_k) {
    shapes.problem.scale = scale;
    shapes.q[0] = of_q;
    shapes.k[0] = of_k;
    shapes.Fill();
    return shapes.device.logit_scales(shapes.device.sequences()[1])[0];
  };
  EXPECT_FLOAT_EQ(logit_scale(0.5f, 1e30f, 1e-30f), 0.5f);
  EXPECT_FLOAT_EQ(logit_scale(1e30f, 1e30f, 1e30f), 1e30f);
  EXPECT_FLOAT_EQ(logit_scale(-1e30f, 1e30f, 1e30f), -1e30f);
  EXPECT_EQ(logit_scale(1e-30f, 1e-30f, 1e-30f), std::numeric_limits<float>::min());
  EXPECT_EQ(logit_scale(0, 1e30f, 1e30f), 0);
}

TEST(DeviceProblemTest, ScalesTakeWorkspaceWhereTheyOutgrowTheParameters) {
  ScaledShapes shapes;
  EXPECT_EQ(TableBytes(shapes.problem), 0);
  constexpr int64_t kSequences = 30;
  shapes.sequences.assign(kSequences, shapes.sequences[0]);
  shapes.problem.sequences = shapes.sequences.data();
  shapes.problem.num_sequences = kSequences;
  shapes.problem.q_scales.sequence_stride = shapes.problem.k_scales.sequence_stride =
      shapes.problem.v_scales.sequence_stride = 0;
  const int64_t bytes = kSequences * static_cast<int64_t>(sizeof(DeviceSequence) + (8 + 2) * sizeof(float));
  EXPECT_EQ(TableBytes(shapes.problem), bytes);
  shapes.Fill();
  EXPECT_EQ(static_cast<int64_t>(shapes.spilled.size()), bytes);
  EXPECT_EQ(shapes.device.value_scales(shapes.device.sequences()[kSequences - 1])[1], 201);
}

TEST(DeviceProblemTest, TurnsWindowsIntoShifts) {
  Shapes shapes;
  tessera_sequence& s = shapes.sequences[0];
  const auto shifts = [&] {
    DeviceProblem device;
    EXPECT_EQ(
        MakeDeviceProblem(shapes.problem, WholeGroups(shapes.problem, 128), 0, nullptr, nullptr, &device),
        cudaSuccess);
    DeviceSequence view;
    std::memcpy(&view, device.inline_tables, sizeof view);
    return std::pair<int64_t, int64_t>(view.first_shift, view.last_shift);
  };
  EXPECT_EQ(shifts(), (std::pair<int64_t, int64_t>(-kMaxPosition, kMaxPosition)));
  s.diagonal_offset = 100;
  s.window_left = 10;
  s.window_right = 0;
  EXPECT_EQ(shifts(), (std::pair<int64_t, int64_t>(90, 100)));
  s.diagonal_offset = -(int64_t{1} << 39);
  EXPECT_EQ(shifts(), (std::pair<int64_t, int64_t>(-kMaxPosition, -kMaxPosition)));
}

TEST(DeviceProblemTest, MovesSixteenBytesAtATimeWhereEveryRowIsAligned) {
  Shapes shapes;
  const auto vectorised = [&] {
    DeviceProblem device;
    EXPECT_EQ(
        MakeDeviceProblem(shapes.problem, WholeGroups(shapes.problem, 128), 0, nullptr, nullptr, &device),
        cudaSuccess);
    return device.k.vectorised;
  };
  EXPECT_TRUE(vectorised());
  shapes.problem.k.token_stride = 129;
  EXPECT_FALSE(vectorised());
  shapes.problem.k.token_stride = 128;
  shapes.problem.k.data = reinterpret_cast<void*>(8);
  EXPECT_FALSE(vectorised());
  shapes.problem.k.data = nullptr;
  shapes.SetHeadDims(100, 100);
  EXPECT_FALSE(vectorised());
}

}  // namespace
}  // namespace tessera::kernels::cuda
