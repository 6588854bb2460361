// The fused path needs O(N) memory: its workspace does not grow with N^2, and the process's own resident set
// says the same as the ledger. The real server runs, since only a process of its own has a peak that can be
// read.

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "client/client.h"
#include "tests/integration/subprocess.h"

namespace tessera::testing {
namespace {

constexpr int kThreads = 2;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kMiB = 1 << 20;

// Peak resident set of a process so far, in bytes (VmHWM of proc(5)).
int64_t PeakResidentBytes(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stoll(line.substr(6)) * 1024;
  }
  return -1;
}

client::AttendResult Attend(const client::Client& client, int64_t tokens) {
  std::minstd_rand random(static_cast<unsigned>(tokens));
  std::normal_distribution<float> normal;
  client::Tensor tensors[3];
  for (auto& tensor : tensors) {
    std::vector<float> values(static_cast<size_t>(tokens * kHeadDim));
    for (auto& value : values) value = normal(random);
    tensor.dtype = v1::DATA_TYPE_FP32;
    tensor.shape = {tokens, 1, kHeadDim};
    tensor.bytes.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  client::AttendCall call;
  call.backend = "cpu_fused";
  call.q = tensors[0].view();
  call.k = tensors[1].view();
  call.v = tensors[2].view();
  call.want_lse = true;
  auto result = client.Attend(call);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : client::AttendResult{};
}

TEST(MemoryTest, FusedWorkspaceIsLinearAndResidentSetAgrees) {
  ProcessResult failure;
  const auto server =
      ServerProcess::Start(TESSERA_SERVER_BINARY, {"--threads=" + std::to_string(kThreads)}, &failure);
  ASSERT_NE(server, nullptr) << failure.err;
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();

  Attend(**client, 128);  // everything that is allocated once
  const int64_t baseline = PeakResidentBytes(server->pid());
  ASSERT_GT(baseline, 0);

  for (const int64_t tokens : {1024, 4096, 16384}) {
    const auto result = Attend(**client, tokens);
    const auto& memory = result.ledger.memory();
    EXPECT_LE(memory.workspace_peak(), kThreads * kMiB) << "N = " << tokens;
    const int64_t tensor_bytes = tokens * kHeadDim * 4;
    EXPECT_EQ(memory.input(), 3 * tensor_bytes);
    EXPECT_EQ(memory.output(), tensor_bytes + tokens * 4);
    EXPECT_GE(result.ledger.traffic().standard_workspace(), tokens * tokens * 4);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // The wire's buffers and the placed tensors each hold them once, and what is kept for the next request
    // once more; scores would add 1 GiB at N = 16384.
    const int64_t growth = PeakResidentBytes(server->pid()) - baseline;
    EXPECT_LE(growth, 3 * (memory.input() + memory.output()) + memory.workspace_peak() + 32 * kMiB)
        << "N = " << tokens;
    RecordProperty("peak_rss_growth_" + std::to_string(tokens), std::to_string(growth));
#endif
  }
}

}  // namespace
}  // namespace tessera::testing
