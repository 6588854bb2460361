// The modelled half of the ledger: closed forms against walking every tile, and figures worked out by hand.
#include "backend/core/ledger.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "gtest/gtest.h"
#include "tests/backend/fake_backend.h"
#include "tests/backend/fake_device.h"
#include "tests/backend/seed.h"
#include "tests/backend/test_problem.h"

namespace tessera {
namespace {

using testing::TestProblem;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kNoCache = 0;

Plan PlanOf(int32_t tile_q, int32_t tile_kv, int32_t num_splits = 1) {
  Plan plan{};
  plan.struct_size = sizeof(plan);
  plan.tile_q = tile_q;
  plan.tile_kv = tile_kv;
  plan.num_splits = num_splits;
  return plan;
}

// 1 sequence of 256 queries and keys, one head of dim 64, bf16: Q, K, V and O are 32 KiB each.
struct SmallHead {
  explicit SmallHead(bool causal = false)
      : problem({.q_heads = 1,
                 .kv_heads = 1,
                 .head_dim_qk = 64,
                 .head_dim_v = 64,
                 .sequences = {{256, 256}},
                 .dtype = TESSERA_DTYPE_BF16,
                 .lse = false,
                 .causal = causal}) {}
  TestProblem problem;
};
constexpr int64_t kTensor = 256 * 64 * 2;

TEST(StandardCostTest, ScoresAndProbabilitiesInFp32) {
  const SmallHead head(/*causal=*/true);  // hidden scores are written all the same
  EXPECT_EQ(StandardWorkspaceBytes(head.problem.problem), 2 * 4 * 256 * 256);
  EXPECT_EQ(StandardHbmBytes(head.problem.problem), 4 * kTensor + 4 * 4 * 256 * 256);
}

TEST(StandardCostTest, CountsHeadsSequencesMaskAndLse) {
  TestProblem problem(
      {.q_heads = 4, .kv_heads = 2, .head_dim_qk = 8, .head_dim_v = 4, .sequences = {{3, 5}, {2, 7}}});
  problem.AddBooleanMask();
  const int64_t scores = 4 * (3 * 5 + 2 * 7);
  const int64_t q = 5 * 4 * 8 * 4, kv = 12 * 2 * (8 + 4) * 4, o = 5 * 4 * 4 * 4, lse = 5 * 4 * 4,
                mask = scores;
  EXPECT_EQ(StandardWorkspaceBytes(problem.problem), 8 * scores);
  EXPECT_EQ(StandardHbmBytes(problem.problem), q + kv + o + lse + mask + 16 * scores);
  for (Sequence& s : problem.sequences) s.mask_head_stride = 0;
  EXPECT_EQ(StandardHbmBytes(problem.problem), q + kv + o + lse + mask / 4 + 16 * scores);
}

TEST(StandardCostTest, Saturates) {
  TestProblem problem({.sequences = {{1, 1}}});
  problem.sequences[0].q_len = problem.sequences[0].kv_len = kMaxExtent;
  EXPECT_EQ(StandardWorkspaceBytes(problem.problem), kMax);
  EXPECT_EQ(StandardHbmBytes(problem.problem), kMax);
}

TEST(FusedTrafficTest, CachedKeysAreReadOnce) {
  const SmallHead head;
  const ModelledTraffic traffic = FusedTraffic(head.problem.problem, PlanOf(64, 64), 2 * kTensor);
  EXPECT_EQ(traffic.read_bytes, 3 * kTensor);
  EXPECT_EQ(traffic.write_bytes, kTensor);
}

TEST(FusedTrafficTest, OtherwiseOncePerQueryTile) {
  const SmallHead head;
  const ModelledTraffic traffic = FusedTraffic(head.problem.problem, PlanOf(64, 64), 2 * kTensor - 1);
  EXPECT_EQ(traffic.read_bytes, kTensor + 4 * 2 * kTensor);
  EXPECT_EQ(traffic.write_bytes, kTensor);
}

TEST(FusedTrafficTest, CausalSkipsHiddenTiles) {
  const SmallHead head(/*causal=*/true);
  // 4 query tiles see 1, 2, 3 and 4 of 4 K/V tiles.
  EXPECT_EQ(FusedTraffic(head.problem.problem, PlanOf(64, 64), kNoCache).read_bytes,
            kTensor + (1 + 2 + 3 + 4) * 2 * kTensor / 4);
}

TEST(FusedTrafficTest, WindowLimitsWhatIsRead) {
  SmallHead head;
  head.problem.sequences[0].window_left = 63;
  head.problem.sequences[0].window_right = 0;
  // The first query tile sees its own K/V tile, the others that and the one before.
  EXPECT_EQ(FusedTraffic(head.problem.problem, PlanOf(64, 64), kNoCache).read_bytes,
            kTensor + (1 + 2 + 2 + 2) * 2 * kTensor / 4);
}

TEST(FusedTrafficTest, GroupSharesItsKeys) {
  TestProblem problem({.q_heads = 8,
                       .kv_heads = 1,
                       .head_dim_qk = 64,
                       .head_dim_v = 64,
                       .sequences = {{1, 1024}},
                       .dtype = TESSERA_DTYPE_BF16,
                       .lse = false});
  const int64_t kv = 1024 * 128 * 2, q = 8 * 64 * 2;
  EXPECT_EQ(FusedTraffic(problem.problem, PlanOf(8, 64), kNoCache).read_bytes, q + kv);
  EXPECT_EQ(FusedTraffic(problem.problem, PlanOf(4, 64), kNoCache).read_bytes, q + 2 * kv);
  EXPECT_EQ(FusedTraffic(problem.problem, PlanOf(0, 0), kNoCache).read_bytes, q + kv);
}

TEST(FusedTrafficTest, SplitsWriteAndReadPartials) {
  const SmallHead head;
  const ModelledTraffic one = FusedTraffic(head.problem.problem, PlanOf(256, 64, 1), kNoCache);
  const ModelledTraffic three = FusedTraffic(head.problem.problem, PlanOf(256, 64, 3), kNoCache);
  const int64_t partials = 3 * 256 * (64 + 1) * 4;
  EXPECT_EQ(three.read_bytes - one.read_bytes, partials);
  EXPECT_EQ(three.write_bytes - one.write_bytes, partials);
}

// Walks every tile of every kv head.
int64_t KvBytesByWalking(const AttentionProblem& p, const Plan& plan) {
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  int64_t keys = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const Sequence& s = p.sequences[n];
    const int64_t rows = s.q_len * group;
    for (int64_t row = 0; row < rows; row += plan.tile_q) {
      const int64_t last_row = std::min<int64_t>(row + plan.tile_q, rows) - 1;
      for (int64_t key = 0; key < s.kv_len; key += plan.tile_kv) {
        const int64_t key_end = std::min<int64_t>(key + plan.tile_kv, s.kv_len);
        const int64_t begin = VisibleKeys(s, row / group).begin, end = VisibleKeys(s, last_row / group).end;
        if (std::max(begin, key) < std::min(end, key_end)) keys += key_end - key;
      }
    }
  }
  return keys * p.num_kv_heads * (p.head_dim_qk + p.head_dim_v) * 2;
}

TEST(FusedTrafficTest, ClosedFormEqualsWalkingTheTiles) {
  std::mt19937_64 random(testing::DrawSeed());
  const auto draw = [&random](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  for (int round = 0; round < 20000; ++round) {
    const auto kv_heads = static_cast<int32_t>(draw(1, 2));
    TestProblem problem({.q_heads = kv_heads * static_cast<int32_t>(draw(1, 5)),
                         .kv_heads = kv_heads,
                         .head_dim_qk = 2,
                         .head_dim_v = 1,
                         .sequences = {{draw(0, 50), draw(0, 50)}, {draw(0, 8), draw(0, 50)}},
                         .dtype = TESSERA_DTYPE_FP16,
                         .lse = false});
    for (Sequence& s : problem.sequences) {
      if (draw(0, 1) == 0) s.diagonal_offset = draw(-60, 60);
      s.window_left = draw(0, 2) == 0 ? -1 : draw(0, 40);
      s.window_right = draw(0, 2) == 0 ? -1 : draw(0, 1) * draw(0, 40);
    }
    const AttentionProblem& p = problem.problem;
    const Plan plan = PlanOf(static_cast<int32_t>(draw(1, 20)), static_cast<int32_t>(draw(1, 20)));
    const int64_t q_bytes = SizeOf(p).q_tokens * p.num_q_heads * p.head_dim_qk * 2;
    ASSERT_EQ(FusedTraffic(p, plan, kNoCache).read_bytes, q_bytes + KvBytesByWalking(p, plan))
        << "round " << round << ": tile " << plan.tile_q << " x " << plan.tile_kv << ", heads "
        << p.num_q_heads << "/" << p.num_kv_heads;
  }
}

// A dry run may name any valid lengths: the model must neither walk them nor overflow.
TEST(FusedTrafficTest, HugeDryRunIsQuickAndSaturates) {
  TestProblem problem(
      {.q_heads = 1, .kv_heads = 1, .head_dim_qk = 1, .head_dim_v = 1, .sequences = {{1, 1}}});
  AttentionProblem& p = problem.problem;
  Sequence& s = problem.sequences[0];
  s.q_len = s.kv_len = kMaxExtent;
  s.diagonal_offset = 0;
  s.window_left = 1000;
  s.window_right = 0;
  for (int64_t* elements :
       {&p.q.num_elements, &p.k.num_elements, &p.v.num_elements, &p.o.num_elements, &p.lse.num_elements}) {
    *elements = kMaxExtent;
  }
  ASSERT_TRUE(Validate(p, DataRequirement::kShapesOnly).ok());
  const ModelledTraffic window = FusedTraffic(p, PlanOf(1, 1), kNoCache);
  EXPECT_EQ(window.read_bytes, 4 * kMaxExtent + 8 * (1001 * kMaxExtent - 1000 * 1001 / 2));
  s.window_left = s.window_right = -1;
  EXPECT_EQ(FusedTraffic(p, PlanOf(1, 1), kNoCache).read_bytes, kMax);
  EXPECT_EQ(FusedTraffic(p, PlanOf(3, 7, 1 << 30), kNoCache).write_bytes, kMax);
}

TEST(AccountProblemTest, FillsTrafficAndFlops) {
  const SmallHead head;
  Ledger ledger;
  ledger.memory.workspace_peak = 1024;
  AccountProblem(head.problem.problem, {.read_bytes = 100, .write_bytes = 28}, ledger);
  EXPECT_EQ(ledger.traffic.hbm_read, 100);
  EXPECT_EQ(ledger.traffic.hbm_write, 28);
  EXPECT_EQ(ledger.traffic.standard_workspace, 8 * 256 * 256);
  EXPECT_DOUBLE_EQ(ledger.traffic.workspace_ratio, 8 * 256 * 256 / 1024.0);
  EXPECT_DOUBLE_EQ(ledger.traffic.hbm_ratio, static_cast<double>(ledger.traffic.standard_hbm_bytes) / 128);
  EXPECT_EQ(ledger.flops, int64_t{2} * 256 * 256 * 128);
}

TEST(AccountProblemTest, NoWorkspaceNoTrafficNoDivisionByZero) {
  TestProblem problem({.sequences = {}});
  Ledger ledger;
  AccountProblem(problem.problem, {}, ledger);
  EXPECT_EQ(ledger.traffic.workspace_ratio, 0);
  EXPECT_EQ(ledger.traffic.hbm_ratio, 0);
}

class ChoiceOfTest : public ::testing::Test {
 protected:
  testing::FakeDevice device_;
  const testing::FakeBackend backend_{testing::AbleInfo("fused", 1), device_};
};

TEST_F(ChoiceOfTest, SaysWhatThePlanSays) {
  Plan plan = PlanOf(64, 32, 2);
  std::strcpy(plan.kernel, "fused_attention_test");
  plan.stages = 3;
  plan.launches = 2;
  plan.fast_memory_bytes = 4096;
  const ChoiceLedger choice = ChoiceOf(SmallHead().problem.problem, plan, backend_);
  EXPECT_EQ(choice.backend, "fused");
  EXPECT_EQ(choice.device, device_.id());
  EXPECT_EQ(choice.kernel, "fused_attention_test");
  EXPECT_EQ(choice.tile_q, 64);
  EXPECT_EQ(choice.tile_kv, 32);
  EXPECT_EQ(choice.stages, 3);
  EXPECT_EQ(choice.num_splits, 2);
  EXPECT_EQ(choice.launches, 2);
  EXPECT_EQ(choice.fast_memory_bytes, 4096);
  EXPECT_EQ(choice.batch_requests, 1);
  EXPECT_EQ(choice.batch_sequences, 1);
}

TEST_F(ChoiceOfTest, CutsAnUnterminatedKernelName) {
  Plan plan = PlanOf(1, 1);
  std::memset(plan.kernel, 'x', sizeof(plan.kernel));
  EXPECT_EQ(ChoiceOf(TestProblem().problem, plan, backend_).kernel, std::string(sizeof(plan.kernel), 'x'));
}

}  // namespace
}  // namespace tessera
