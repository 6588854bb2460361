// Loaded plugins through the Backend interface: the ones that work, and the ones that misbehave in one call.
#include "backend/core/plugin_backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/plugins/plugin_test_support.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

TEST(NullPluginTest, DescribesItself) {
  const LoadedPlugin plugin("tessera_plugin_null.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  const BackendInfo& info = plugin.backend()->info();
  EXPECT_EQ(info.name, "null");
  EXPECT_EQ(info.description, "writes zeros without reading Q, K or V, for load tests (plugin null 1.0)");
  EXPECT_LT(info.auto_priority, 0) << "auto must never pick a backend that computes nothing";
  EXPECT_EQ(info.capabilities.features, uint32_t{TESSERA_FEATURE_ALL});
  EXPECT_EQ(&plugin.backend()->device(), &plugin.host_device);
}

TEST(NullPluginTest, WritesZerosWithoutReadingKeysAndValues) {
  LoadedPlugin plugin("tessera_plugin_null.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  SmallProblem small;
  // Reading them would fault.
  small.problem.q.data = small.problem.k.data = small.problem.v.data = nullptr;
  ASSERT_TRUE(plugin.backend()->Supports(small.problem).ok());
  const auto plan = plugin.backend()->MakePlan(small.problem);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_STREQ(plan->kernel, "null");
  EXPECT_EQ(plan->workspace_bytes, 0);
  const auto traffic = plugin.backend()->ModelTraffic(*plan, small.problem);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  EXPECT_EQ(traffic->read_bytes, 0);
  EXPECT_EQ(traffic->write_bytes, static_cast<int64_t>(4 * (small.o.size() + small.lse.size())));
  const absl::Status status = plugin.backend()->Enqueue(*plan, small.problem, nullptr, nullptr);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(small.o, Each(0.0f));
  EXPECT_THAT(small.lse, Each(-std::numeric_limits<float>::infinity()));
}

TEST(NullPluginTest, LeavesRowsOfNoSequenceAlone) {
  LoadedPlugin plugin("tessera_plugin_null.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  SmallProblem small;
  small.problem.num_sequences = 1;  // tokens 0..2
  const auto plan = plugin.backend()->MakePlan(small.problem);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plugin.backend()->Enqueue(*plan, small.problem, nullptr, nullptr).ok());
  const auto row_3 = small.o.begin() + 3 * SmallProblem::kQHeads * SmallProblem::kDim;
  EXPECT_THAT(std::vector<float>(small.o.begin(), row_3), Each(0.0f));
  EXPECT_THAT(std::vector<float>(row_3, small.o.end()), Each(-7.0f));
}

TEST(NewerTablesTest, LoadsAndRunsByTheKnownPrefix) {
  LoadedPlugin plugin("tessera_plugin_newer_tables.so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  SmallProblem small;
  small.problem.num_sequences = 1;
  ASSERT_TRUE(plugin.backend()->Supports(small.problem).ok()) << plugin.backend()->Supports(small.problem);
  const auto plan = plugin.backend()->MakePlan(small.problem);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->struct_size, sizeof(Plan)) << "what the plugin wrote there must not be believed";
  EXPECT_EQ(plan->tile_q, 64);
  const auto traffic = plugin.backend()->ModelTraffic(*plan, small.problem);
  ASSERT_TRUE(traffic.ok()) << traffic.status();
  EXPECT_EQ(traffic->read_bytes, 0) << "not known: it has no model";
  EXPECT_EQ(traffic->write_bytes, 0);
  EXPECT_TRUE(plugin.backend()->Enqueue(*plan, small.problem, nullptr, nullptr).ok());
}

TEST(PluginBackendTest, RefusesWhatTheCapabilitiesLack) {
  const LoadedPlugin plugin("tessera_plugin_newer_tables.so");  // head dims: multiples of 8 up to 64
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  SmallProblem small;
  small.problem.head_dim_qk = 72;
  const absl::Status status = plugin.backend()->Supports(small.problem);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("newer_tables"), HasSubstr("head_dim 72")));
}

TEST(PluginBackendTest, PassesOnTheRefusalOfThePlugin) {
  const LoadedPlugin plugin("tessera_plugin_newer_tables.so");  // one sequence at a time
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  const absl::Status status = plugin.backend()->Supports(SmallProblem().problem);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(),
            "newer_tables: supports: more than one sequence is not supported; supported: 1");
}

struct Misbehaviour {
  std::string name;  // of the plugin
  std::string function;
  absl::StatusCode code;
  std::string reason;
  std::string message;
};

class MisbehaviourTest : public ::testing::TestWithParam<Misbehaviour> {};

// One step after the other, as long as they work.
absl::Status RunOnce(Backend& backend, const AttentionProblem& problem) {
  TESSERA_ASSIGN_OR_RETURN(const Plan plan, backend.MakePlan(problem));
  TESSERA_RETURN_IF_ERROR(backend.ModelTraffic(plan, problem).status());
  return backend.Enqueue(plan, problem, nullptr, nullptr);
}

TEST_P(MisbehaviourTest, BecomesAPreciseError) {
  const Misbehaviour& expected = GetParam();
  LoadedPlugin plugin("tessera_plugin_" + expected.name + ".so");
  ASSERT_TRUE(plugin.status.ok()) << plugin.status;
  SmallProblem small;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const absl::Status status = RunOnce(*plugin.backend(), small.problem);
    EXPECT_EQ(status.code(), expected.code) << status;
    EXPECT_EQ(ReasonOf(status), expected.reason) << status;
    EXPECT_EQ(status.message(), expected.name + ": " + expected.function + expected.message);
  }
}

const Misbehaviour kMisbehaviours[] = {
    {"plan_fails", "plan", absl::StatusCode::kResourceExhausted, "PLUGIN_FAILED", ": no tile fits"},
    {"plan_absurd", "plan", absl::StatusCode::kInternal, "PLUGIN_INVALID_PLAN",
     " gave workspace_bytes: expected 0..72057594037927936, got -4096"},
    {"plan_unterminated", "plan", absl::StatusCode::kInternal, "PLUGIN_INVALID_PLAN",
     " gave kernel: expected at most 95 characters and a NUL, got 96 bytes without a NUL"},
    {"model_fails", "model_traffic", absl::StatusCode::kOutOfRange, "PLUGIN_FAILED", ": too long a walk"},
    {"model_absurd", "model_traffic", absl::StatusCode::kInternal, "PLUGIN_INVALID_RESULT",
     " gave write_bytes: expected 0 or more, got -1"},
    {"enqueue_fails", "enqueue", absl::StatusCode::kUnavailable, "PLUGIN_FAILED",
     ": the accelerator fell off the bus"},
    {"enqueue_throws", "enqueue", absl::StatusCode::kInternal, "PLUGIN_THREW",
     " threw a C++ exception: tile 7 of 4"},
    {"unknown_code", "enqueue", absl::StatusCode::kInternal, "PLUGIN_FAILED",
     ": unknown status code 4242: lost"},
};

INSTANTIATE_TEST_SUITE_P(All, MisbehaviourTest, ::testing::ValuesIn(kMisbehaviours),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tessera
