#include "backend/cpu/cpu_backends.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "backend/core/host_memory.h"
#include "backend/core/ledger.h"
#include "backend/core/usable_cores.h"
#include "backend/cpu/cpu_device.h"
#include "backend/cpu/host_info.h"
#include "kernels/cpu/fused_attention.h"
#include "tests/conformance/problem_builder.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(RegisterCpuBackendsTest, AddsTheDeviceAndItsBackends) {
  BackendRegistry registry;
  const auto device = RegisterCpuBackends({.num_threads = 3}, registry);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->id(), "cpu");
  EXPECT_TRUE((*device)->host_accessible());
  EXPECT_EQ((*device)->Info()->compute_units, 3);
  ASSERT_TRUE(registry.Find("cpu_fused").ok());
  ASSERT_TRUE(registry.Find("cpu_standard").ok());
  EXPECT_EQ(registry.backends().front()->info().name, "cpu_fused");
  // Where there is no BLAS, the reason is known.
  const auto unfused = registry.Find("cpu_unfused");
  EXPECT_TRUE(unfused.ok() || absl::IsUnavailable(unfused.status())) << unfused.status();
}

TEST(RegisterCpuBackendsTest, RefusesThreadCountsOutOfRange) {
  for (int num_threads : {-1, 1 << 20}) {
    BackendRegistry registry;
    const auto device = RegisterCpuBackends({.num_threads = num_threads}, registry);
    EXPECT_TRUE(absl::IsInvalidArgument(device.status())) << device.status();
    EXPECT_THAT(std::string(device.status().message()), HasSubstr(std::to_string(num_threads)));
  }
}

TEST(RegisterCpuBackendsTest, TakesEveryUsableIsaAndRefusesTheRest) {
  using kernels::cpu::Isa;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmxBf16}) {
    BackendRegistry registry;
    const auto device = RegisterCpuBackends({.num_threads = 1, .isa = isa}, registry);
    if (kernels::cpu::IsaUsable(isa)) {
      EXPECT_TRUE(device.ok()) << device.status();
    } else {
      EXPECT_TRUE(absl::IsFailedPrecondition(device.status())) << device.status();
      EXPECT_THAT(std::string(device.status().message()), HasSubstr("usable: baseline"));
    }
  }
}

class CpuBackendsTest : public ::testing::Test {
 protected:
  CpuBackendsTest() : device_(*RegisterCpuBackends({.num_threads = 2}, registry_)) {}

  Plan PlanOf(const std::string& backend, const AttentionProblem& problem) {
    return *(*registry_.Find(backend))->MakePlan(problem);
  }
  ModelledTraffic TrafficOf(const std::string& backend, const AttentionProblem& problem) {
    return *(*registry_.Find(backend))->ModelTraffic(PlanOf(backend, problem), problem);
  }

  BackendRegistry registry_;
  Device* const device_;
};

TEST_F(CpuBackendsTest, FusedPlanSaysWhatItChose) {
  const auto host = testing::BuildProblem({.name = "n", .sequences = {{500, 700}}}, 1);
  const Plan plan = PlanOf("cpu_fused", host.problem());
  EXPECT_THAT(std::string(plan.kernel), HasSubstr("fused_attention"));
  EXPECT_GT(plan.tile_q, 0);
  EXPECT_GT(plan.tile_kv, 0);
  EXPECT_GE(plan.stages, 1);
  EXPECT_GE(plan.num_splits, 1);
  EXPECT_GT(plan.fast_memory_bytes, 0);
  EXPECT_GE(plan.launches, 1);
  EXPECT_EQ(plan.materialises_scores, 0);
  const ModelledTraffic traffic = TrafficOf("cpu_fused", host.problem());
  EXPECT_GT(traffic.read_bytes, 0);
  EXPECT_GT(traffic.write_bytes, 0);
}

// Shapes only: a problem of 2^20 x 2^20 scores is planned without memory behind it.
AttentionProblem ShapesOnly(const Sequence& sequence) {
  AttentionProblem p{.struct_size = sizeof(AttentionProblem),
                     .num_q_heads = 1,
                     .num_kv_heads = 1,
                     .head_dim_qk = 128,
                     .head_dim_v = 128,
                     .scale = 1};
  const int64_t elements = std::max(sequence.q_len, sequence.kv_len) * 128;
  p.q = p.k = p.v = p.o = {nullptr, elements, 128, 128, TESSERA_DTYPE_FP32};
  p.sequences = &sequence;
  p.num_sequences = 1;
  return p;
}

TEST_F(CpuBackendsTest, FusedWorkspaceDoesNotGrowWithTheScores) {
  Sequence s{.q_len = 16384, .kv_len = 16384, .window_left = -1, .window_right = -1};
  constexpr int64_t kTwoWorkers = 2 * kernels::cpu::kMaxScratchPerWorker;
  EXPECT_LE(PlanOf("cpu_fused", ShapesOnly(s)).workspace_bytes, kTwoWorkers);
  s.q_len = s.kv_len = 1 << 20;
  EXPECT_LE(PlanOf("cpu_fused", ShapesOnly(s)).workspace_bytes, kTwoWorkers);
  EXPECT_GT(PlanOf("cpu_standard", ShapesOnly(s)).workspace_bytes, int64_t{8} << 40);
}

TEST_F(CpuBackendsTest, FusedPlanTakesNoTimeInTheLengths) {
  const Sequence s{.q_len = int64_t{1} << 33, .kv_len = 1, .window_left = -1, .window_right = -1};
  EXPECT_GE(PlanOf("cpu_fused", ShapesOnly(s)).workspace_bytes, int64_t{1} << 30);
}

TEST_F(CpuBackendsTest, FusedPlanNamesTheTilesThatRun) {
  // Two workers share these rows better in smaller tiles than the choice alone would take.
  const Sequence s{.q_len = 600, .kv_len = 4096, .window_left = -1, .window_right = -1};
  const AttentionProblem problem = ShapesOnly(s);
  const Plan plan = PlanOf("cpu_fused", problem);
  const kernels::cpu::FusedTiles tiles = kernels::cpu::TilesOf(problem, {.isa = kernels::cpu::BestIsa(),
                                                                         .tile_q = plan.tile_q,
                                                                         .tile_kv = plan.tile_kv,
                                                                         .num_splits = plan.num_splits,
                                                                         .num_workers = 2});
  EXPECT_EQ(plan.tile_q, tiles.tile_q);
  EXPECT_EQ(plan.tile_kv, tiles.tile_kv);
  EXPECT_EQ(plan.num_splits, tiles.num_splits);
  EXPECT_EQ(plan.fast_memory_bytes, tiles.scratch_bytes);
  EXPECT_GE(plan.workspace_bytes, 2 * tiles.scratch_bytes);
}

TEST_F(CpuBackendsTest, StandardPlansSayThatTheyMaterialiseTheScores) {
  const Sequence s{.q_len = 4096, .kv_len = 4096, .window_left = -1, .window_right = -1};
  const AttentionProblem problem = ShapesOnly(s);
  const Plan plan = PlanOf("cpu_standard", problem);
  const int64_t scores = int64_t{4096} * 4096;
  EXPECT_EQ(plan.materialises_scores, 1);
  EXPECT_GE(plan.workspace_bytes, 8 * scores);
  const ModelledTraffic traffic = TrafficOf("cpu_standard", problem);
  EXPECT_EQ(traffic.write_bytes, 2 * 8 * scores + 4096 * 128 * 4);
  EXPECT_EQ(traffic.read_bytes, 2 * 8 * scores + 3 * 4096 * 128 * 4);
  if (registry_.Find("cpu_unfused").ok()) {
    EXPECT_EQ(PlanOf("cpu_unfused", problem).materialises_scores, 1);
    const ModelledTraffic unfused = TrafficOf("cpu_unfused", problem);
    EXPECT_EQ(unfused.write_bytes + unfused.read_bytes, StandardHbmBytes(problem));
  }
}

TEST_F(CpuBackendsTest, RefusesMoreMemoryThanThereIs) {
  const DeviceInfo info = *device_->Info();
  for (size_t bytes : {static_cast<size_t>(info.total_memory_bytes) * 4, SIZE_MAX}) {
    const auto memory = device_->Allocate(TESSERA_MEMORY_DEVICE, bytes);
    EXPECT_TRUE(absl::IsResourceExhausted(memory.status())) << memory.status();
    EXPECT_THAT(std::string(memory.status().message()), HasSubstr(std::to_string(bytes)));
  }
}

TEST_F(CpuBackendsTest, AlignsMemoryOfAnySize) {
  for (size_t bytes : {0, 1, 63, 64, 65, 100000}) {
    const auto memory = device_->Allocate(TESSERA_MEMORY_PINNED, bytes);
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(*memory) % 64, 0u);
    device_->Free(TESSERA_MEMORY_PINNED, *memory);
  }
}

TEST_F(CpuBackendsTest, EventsMeasureTheTimeBetweenThem) {
  const Stream stream = *Stream::Create(*device_);
  const Event begin = *Event::Create(*device_), end = *Event::Create(*device_);
  ASSERT_TRUE(device_->RecordEvent(begin.get(), stream.get()).ok());
  ASSERT_TRUE(device_->RecordEvent(end.get(), stream.get()).ok());
  ASSERT_TRUE(device_->SynchronizeEvent(end.get()).ok());
  EXPECT_GE(*device_->ElapsedMicroseconds(begin.get(), end.get()), 0);
}

TEST_F(CpuBackendsTest, HostServicesRunEveryTaskOnce) {
  const tessera_host& host = CpuHostServices();
  EXPECT_EQ(host.abi_version, TESSERA_ABI_VERSION);
  const Stream stream = *Stream::Create(*device_);
  EXPECT_EQ(host.num_workers(stream.get()), 2);
  std::vector<std::atomic<int>> runs(100);
  const auto count = [](void* context, int64_t task, int32_t worker) {
    EXPECT_TRUE(worker == 0 || worker == 1);
    ++(*static_cast<std::vector<std::atomic<int>>*>(context))[static_cast<size_t>(task)];
  };
  host.parallel_for(stream.get(), 100, count, &runs);
  host.parallel_for(stream.get(), 0, count, nullptr);
  for (const std::atomic<int>& n : runs) EXPECT_EQ(n, 1);
}

class CacheSizesTest : public ::testing::Test {
 protected:
  void WriteCache(int index, const std::string& level, const std::string& type, const std::string& size) {
    const auto cache = directory_ / ("index" + std::to_string(index));
    std::filesystem::create_directories(cache);
    std::ofstream(cache / "level") << level << "\n";
    std::ofstream(cache / "type") << type << "\n";
    std::ofstream(cache / "size") << size << "\n";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  const std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) / ("cache_sizes_" + std::to_string(getpid()));
};

TEST_F(CacheSizesTest, ReadsL2AndTheLastLevel) {
  WriteCache(0, "1", "Data", "48K");
  WriteCache(1, "1", "Instruction", "32K");
  WriteCache(2, "2", "Unified", "2048K");
  WriteCache(3, "3", "Unified", "105M");
  const CacheSizes sizes = ReadCacheSizes(directory_);
  EXPECT_EQ(sizes.l2_bytes, 2 << 20);
  EXPECT_EQ(sizes.last_level_bytes, 105 << 20);
}

TEST_F(CacheSizesTest, TakesL2AsTheLastLevelWithoutAnL3) {
  WriteCache(0, "1", "Data", "32K");
  WriteCache(1, "2", "Unified", "512K");
  EXPECT_EQ(ReadCacheSizes(directory_).last_level_bytes, 512 << 10);
}

TEST_F(CacheSizesTest, FallsBackWhereNothingIsDescribed) {
  EXPECT_EQ(ReadCacheSizes(directory_).l2_bytes, 1 << 20);
  WriteCache(0, "nonsense", "", "");
  EXPECT_EQ(ReadCacheSizes(directory_).last_level_bytes, 32 << 20);
}

TEST(HostInfoTest, KnowsThisMachine) {
  EXPECT_FALSE(CpuModelName().empty());
  EXPECT_GE(UsableCores(), 1);
  const HostMemory memory = ReadHostMemory();
  EXPECT_GT(memory.available_bytes, 0);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
}

}  // namespace
}  // namespace tessera
