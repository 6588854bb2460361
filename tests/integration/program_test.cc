// The programs as an operator runs them: signals, sockets, logs, plugins, and the command line against a real
// server.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "tests/integration/subprocess.h"

namespace tessera::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::unique_ptr<ServerProcess> StartServer(std::vector<std::string> flags) {
  ProcessResult failure;
  flags.push_back("--threads=2");
  auto server = ServerProcess::Start(TESSERA_SERVER_BINARY, flags, &failure);
  EXPECT_NE(server, nullptr) << "exit " << failure.exit_code << "\n" << failure.out << failure.err;
  return server;
}

ProcessResult RunCli(const ServerProcess& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), TESSERA_CLI_BINARY);
  arguments.push_back("--server=" + server.address());
  return RunProcess(arguments, seconds(240));
}

// One sequence of `tokens` zeros with heads of dim 64, in fp32.
struct ZeroCall {
  explicit ZeroCall(int64_t tokens, std::string backend = "", int64_t heads = 1) {
    tensor.dtype = v1::DATA_TYPE_FP32;
    tensor.shape = {tokens, heads, 64};
    tensor.bytes.assign(static_cast<size_t>(tokens * heads * 64 * 4), '\0');
    call.q = call.k = call.v = tensor.view();
    call.backend = std::move(backend);
  }
  client::Tensor tensor;
  client::AttendCall call;
};

// CPU time of a process so far (utime and stime of proc(5)), in clock ticks.
int64_t CpuTicks(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string field;
  int64_t ticks = 0;
  for (int i = 1; i <= 15 && stat >> field; ++i) {
    if (i >= 14) ticks += std::stoll(field);
  }
  return ticks;
}

TEST(ProgramTest, VerifyPassesOnEveryBackendAndPlugin) {
  const auto server = StartServer({"--backend-plugin=" TESSERA_PLUGIN_FENCED "," TESSERA_PLUGIN_EXAMPLE});
  ASSERT_NE(server, nullptr);
  for (const char* backend : {"cpu_fused", "cpu_unfused", "fenced", "example"}) {
    const auto result = RunCli(*server, {"verify", std::string("--backend=") + backend, "--cases=60"});
    EXPECT_EQ(result.exit_code, 0) << backend << "\n" << result.out << result.err;
    EXPECT_NE(result.out.find("seed"), std::string::npos) << result.out;
  }
}

TEST(ProgramTest, VerifyFailsOnABackendThatDoesNotCompute) {
  const auto server = StartServer({"--backend-plugin=" TESSERA_PLUGIN_NULL});
  ASSERT_NE(server, nullptr);
  const auto result = RunCli(*server, {"verify", "--backend=null", "--cases=5"});
  EXPECT_EQ(result.exit_code, 1) << result.out << result.err;
}

TEST(ProgramTest, CompareTableHoldsAgainstTheOracle) {
  const auto server = StartServer({});
  ASSERT_NE(server, nullptr);
  const auto result = RunCli(*server, {"bench", "compare", "--n=256,512", "--rounds=3"});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
}

TEST(ProgramTest, SigtermDrainsWhatRuns) {
  const auto server = StartServer({});
  ASSERT_NE(server, nullptr);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  // Long enough to be in flight when the signal comes.
  const ZeroCall slow(4096, "cpu_standard");
  absl::StatusOr<client::AttendResult> result = absl::UnknownError("not called");
  std::thread caller([&] { result = (*client)->Attend(slow.call); });
  std::this_thread::sleep_for(milliseconds(50));
  server->Signal(SIGTERM);
  caller.join();
  // Either it was in flight and completed, or it came after the signal and was refused in so many words.
  if (!result.ok()) {
    EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
  }
  EXPECT_EQ(server->WaitForExit(seconds(30)), 0) << server->Log();
}

TEST(ProgramTest, SecondSigtermGivesUpWhatRuns) {
  const auto server = StartServer({"--log-level=debug"});
  ASSERT_NE(server, nullptr);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  const ZeroCall slow(8192, "cpu_standard", 16);  // many seconds
  const int64_t idle_ticks = CpuTicks(server->pid());
  absl::StatusOr<client::AttendResult> result = absl::UnknownError("not called");
  std::thread caller([&] { result = (*client)->Attend(slow.call); });
  // It computes once it has used half a second of processor time, parsing the message aside.
  while (server->Running() && CpuTicks(server->pid()) - idle_ticks < sysconf(_SC_CLK_TCK) / 2) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  server->Signal(SIGTERM);
  // Two signals at once would count as one.
  while (server->Running() && server->Log().find("event=drain") == std::string::npos) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  server->Signal(SIGTERM);
  EXPECT_EQ(server->WaitForExit(seconds(5)), 3) << server->Log();
  caller.join();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
  EXPECT_NE(server->Log().find("event=give_up requests=1 streams=0"), std::string::npos) << server->Log();
}

TEST(ProgramTest, UnixSocketAndTcpServeTogetherAndTheSocketGoesAway) {
  const std::string path = ::testing::TempDir() + "/tessera_" + std::to_string(getpid()) + ".sock";
  auto server = StartServer({"--listen=127.0.0.1:0,unix:" + path});
  ASSERT_NE(server, nullptr);
  ASSERT_EQ(server->addresses().size(), 2u);
  for (const auto& address : server->addresses()) {
    const auto client = client::Client::Connect(address);
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_TRUE((*client)->Attend(ZeroCall(4).call).ok()) << address;
  }
  EXPECT_EQ(access(path.c_str(), F_OK), 0);
  server.reset();
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST(ProgramTest, RepeatedListFlagsAddUp) {
  const auto server =
      StartServer({"--listen=127.0.0.1:0", "--listen=127.0.0.1:0,localhost:0",
                   "--backend-plugin=" TESSERA_PLUGIN_NULL, "--backend-plugin=" TESSERA_PLUGIN_FENCED});
  ASSERT_NE(server, nullptr);
  ASSERT_EQ(server->addresses().size(), 3u);
  for (const auto& address : server->addresses()) {
    const auto client = client::Client::Connect(address);
    ASSERT_TRUE(client.ok()) << client.status();
    for (const char* backend : {"null", "fenced"}) {
      EXPECT_TRUE((*client)->Attend(ZeroCall(4, backend).call).ok()) << address << " " << backend;
    }
  }
}

TEST(ProgramTest, CopiesEachByteOnceOnTheWayInAndNeverOnTheWayOut) {
  const auto server = StartServer({"--backend-plugin=" TESSERA_PLUGIN_NULL "," TESSERA_PLUGIN_FENCED});
  ASSERT_NE(server, nullptr);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  for (const char* backend : {"cpu_fused", "null", "fenced"}) {
    for (const int64_t tokens : {1, 100}) {  // packed with others where there are any, and not
      const ZeroCall zero(tokens, backend, 64);
      const auto result = (*client)->Attend(zero.call);
      ASSERT_TRUE(result.ok()) << result.status();
      const auto& memory = result->ledger.memory();
      EXPECT_EQ(memory.host_copies_in(), 1) << backend;
      EXPECT_EQ(memory.host_copies_in_bytes(), memory.input()) << backend;
      EXPECT_EQ(memory.host_copies_out(), 0) << backend;
      EXPECT_EQ(memory.host_copies_out_bytes(), 0) << backend;
      EXPECT_EQ(result->ledger.choice().backend(), backend);
    }
  }
}

TEST(ProgramTest, DebugLogHasOneLineForEachRequest) {
  const auto server = StartServer({"--log-level=debug"});
  ASSERT_NE(server, nullptr);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  ZeroCall zero(4);
  zero.call.id = "log me\nlevel=error";
  ASSERT_TRUE((*client)->Attend(zero.call).ok());
  zero.call.backend = "none_such";
  ASSERT_FALSE((*client)->Attend(zero.call).ok());
  server->Signal(SIGTERM);
  EXPECT_EQ(server->WaitForExit(), 0);

  int lines = 0;
  std::string log = server->Log();
  for (size_t at = log.find("log me"); at != std::string::npos; at = log.find("log me", at + 1)) ++lines;
  EXPECT_EQ(lines, 2) << log;
  // The id's line break must not have started a line of its own.
  EXPECT_EQ(log.find("\nlevel=error"), std::string::npos) << log;
}

TEST(ProgramTest, WarnsWhereTheCpuComputesForWantOfAGpu) {
  const auto server = StartServer({"--cuda-device=auto"});
  ASSERT_NE(server, nullptr);
  const bool warned = server->Log().find("level=warning event=cpu_fallback") != std::string::npos;
  const bool has_gpu = server->Log().find("event=backend name=cuda_fused") != std::string::npos;
  EXPECT_NE(warned, has_gpu) << server->Log();
}

TEST(ProgramTest, DoesNotStartWithoutTheGpuThatIsAskedFor) {
  ProcessResult failure;
  const auto server = ServerProcess::Start(TESSERA_SERVER_BINARY, {"--cuda-device=1000"}, &failure);
  ASSERT_EQ(server, nullptr);
  // 2 where there are GPUs, but not so many.
  const bool has_gpus = failure.err.find("CUDA device") != std::string::npos;
  EXPECT_EQ(failure.exit_code, has_gpus ? 2 : 1) << failure.err;
}

TEST(ProgramTest, HealthFollowsTheDrain) {
  const auto server = StartServer({});
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(RunCli(*server, {"health"}).exit_code, 0);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<client::HealthStatus> seen;
  const pid_t pid = server->pid();
  std::thread watcher([&] {
    (void)(*client)->WatchHealth("", [&](client::HealthStatus status) {
      seen.push_back(status);
      if (seen.size() == 1) kill(pid, SIGTERM);  // ServerProcess is for one thread
      return true;
    });
  });
  EXPECT_EQ(server->WaitForExit(seconds(30)), 0);
  watcher.join();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0], grpc::health::v1::HealthCheckResponse::SERVING);
  EXPECT_EQ(seen[1], grpc::health::v1::HealthCheckResponse::NOT_SERVING);
}

TEST(ProgramTest, LeavesWithItsOwnStatusWhenADeviceIsLost) {
  const auto server = StartServer({"--backend-plugin=" TESSERA_PLUGIN_LOST});
  ASSERT_NE(server, nullptr);
  const auto client = client::Client::Connect(server->address());
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<client::HealthStatus> seen;
  std::thread watcher([&] {
    (void)(*client)->WatchHealth("", [&](client::HealthStatus status) {
      seen.push_back(status);
      return true;
    });
  });
  // Two launches work; the third takes the device along, and with it whoever comes later.
  for (int i = 0; i < 2; ++i) EXPECT_TRUE((*client)->Attend(ZeroCall(4, "fenced").call).ok());
  absl::Status elsewhere = absl::UnknownError("not called");
  std::thread other([&] { elsewhere = (*client)->Attend(ZeroCall(4096, "cpu_standard").call).status(); });
  std::this_thread::sleep_for(milliseconds(50));
  const absl::Status lost = (*client)->Attend(ZeroCall(4, "fenced").call).status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_NE(std::string(lost.message()).find("fenced:0: the device is lost"), std::string::npos) << lost;

  other.join();
  // Either it was in flight and completed, or it came after the loss and was refused as by any drain.
  if (!elsewhere.ok()) {
    EXPECT_EQ(elsewhere.code(), absl::StatusCode::kUnavailable) << elsewhere;
  }
  EXPECT_EQ(server->WaitForExit(seconds(30)), 4) << server->Log();
  EXPECT_NE(server->Log().find("event=device_lost"), std::string::npos) << server->Log();
  watcher.join();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0], grpc::health::v1::HealthCheckResponse::SERVING);
  EXPECT_EQ(seen[1], grpc::health::v1::HealthCheckResponse::NOT_SERVING);
}

}  // namespace
}  // namespace tessera::testing
