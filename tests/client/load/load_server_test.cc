// tessera load against the real server, over both transports in one run, with replies held to the oracle.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli/cli.h"
#include "tests/integration/subprocess.h"

namespace tessera::load {
namespace {

using nlohmann::json;

class LoadServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    socket_ = std::filesystem::temp_directory_path() / ("tessera_load_" + std::to_string(getpid()) + ".sock");
    tessera::testing::ProcessResult failure;
    server_ = tessera::testing::ServerProcess::Start(
        TESSERA_SERVER_BINARY,
        {"--threads=1", "--listen=127.0.0.1:0,unix:" + socket_.string(),
         "--backend-plugin=" TESSERA_PLUGIN_NULL},
        &failure);
    ASSERT_NE(server_, nullptr) << failure.err;
  }
  void TearDown() override { std::filesystem::remove(socket_); }

  int Run(client::Arguments arguments) {
    arguments.insert(arguments.begin(), "load");
    arguments.push_back("--json=-");
    client::Console console{out_, err_};
    return client::RunCli(arguments, console);
  }

  std::filesystem::path socket_;
  std::unique_ptr<tessera::testing::ServerProcess> server_;
  std::ostringstream out_, err_;
};

TEST_F(LoadServerTest, ComparesTransportsAndVerifiesReplies) {
  ASSERT_EQ(Run({"--server=" + server_->addresses()[0] + "," + server_->addresses()[1], "--concurrency=4",
                 "--rounds=2", "--warmup=0.1", "--duration=0.3", "--dtype=fp32,bf16,fp8_e4m3",
                 "--sequences=1..3", "--q-len=1..40", "--kv-len=lognormal:40:0.5:90", "--heads=4",
                 "--kv-heads=2", "--head-dim=32", "--causal", "--lse", "--verify=0.2"}),
            0)
      << out_.str() << err_.str();
  const json report = json::parse(out_.str());
  ASSERT_EQ(report["points"].size(), 2u);
  EXPECT_NE(report["points"][0]["transport"], report["points"][1]["transport"]);
  for (const json& point : report["points"]) {
    EXPECT_GT(point["requests"]["ok"], 0);
    EXPECT_EQ(point["requests"]["ok"], point["requests"]["due"]);
    EXPECT_GT(point["throughput"]["tflop_per_s"], 0);
    EXPECT_GT(point["mean_time_us"]["compute"], 0);
  }
  EXPECT_GT(report["verification"]["verified"], 0);
  EXPECT_EQ(report["verification"]["wrong"], 0);
}

// The null backend answers with zeros: a load test that did not look would call it the fastest.
TEST_F(LoadServerTest, FindsWrongReplies) {
  EXPECT_EQ(
      Run({"--server=" + server_->address(), "--backend=null", "--count=50", "--warmup=0", "--verify=1"}), 1);
  const json report = json::parse(out_.str());
  EXPECT_GT(report["verification"]["wrong"], 0);
  EXPECT_THAT(report["verification"]["first_wrong"].get<std::string>(),
              ::testing::HasSubstr("relative error"));
}

}  // namespace
}  // namespace tessera::load
