// The command line against a fake server: files in and out, exit codes, and errors on one line.
#include "client/cli/cli.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/tensor_files/tensor_file.h"
#include "tests/client/fake_service.h"

namespace tessera::client {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class CliTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() /
                 ("tessera_cli_" + std::to_string(getpid()) + "_" +
                  testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(directory_);
    const Tensor tensor{v1::DATA_TYPE_FP32, {2, 1, 4}, std::string("0123456789abcdef0123456789ABCDEF")};
    tensor_ = tensor;
    ASSERT_TRUE(
        WriteTensorFile(Path("qkv.npz"), {{"q", tensor.view()}, {"k", tensor.view()}, {"v", tensor.view()}})
            .ok());
    ASSERT_TRUE(WriteTensorFile(Path("one.npy"), {{"", tensor.view()}}).ok());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  int Run(Arguments arguments) {
    out_.str("");
    err_.str("");
    Console console{out_, err_};
    return RunCli(arguments, console);
  }
  int RunWithServer(Arguments arguments) {
    arguments.push_back("--server=" + server_.address());
    return Run(std::move(arguments));
  }
  // What was printed to stderr, which must be one line.
  std::string Error() {
    const std::string error = err_.str();
    EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
    return error;
  }

  FakeServer server_;
  std::filesystem::path directory_;
  Tensor tensor_;
  std::ostringstream out_, err_;
};

TEST_F(CliTest, AttendReadsAnArchiveAndWritesTheOutput) {
  ASSERT_EQ(RunWithServer({"attend", "--input", Path("qkv.npz"), "--out", Path("out.safetensors"), "--lse"}),
            0)
      << err_.str();
  const auto written = ReadTensorFile(Path("out.safetensors"));
  ASSERT_TRUE(written.ok());
  EXPECT_EQ(written->at("output").bytes, tensor_.bytes);
  EXPECT_TRUE(written->contains("lse"));
  EXPECT_THAT(out_.str(), HasSubstr("workspace peak"));
  EXPECT_THAT(out_.str(), HasSubstr("1.00 MiB"));
}

TEST_F(CliTest, AttendPassesEveryOptionOn) {
  const std::string npy = Path("one.npy");
  ASSERT_EQ(RunWithServer({"attend",
                           "--q=" + npy,
                           "--k=" + npy,
                           "--v=" + npy,
                           "--mask=" + npy,
                           "--causal",
                           "--q-lens=1,1",
                           "--kv-lens=2,0",
                           "--scale=0.5",
                           "--softcap=20",
                           "--alibi=auto",
                           "--sinks=0.25",
                           "--window-left=7",
                           "--alignment=top-left",
                           "--diagonal-offsets=1,-1",
                           "--out-dtype=bf16",
                           "--backend=somewhere",
                           "--id=name",
                           "--lse",
                           "--stats=none"}),
            0)
      << err_.str();
  const v1::AttendRequest& request = server_.attention.last_request;
  EXPECT_EQ(request.id(), "name");
  EXPECT_EQ(request.backend(), "somewhere");
  EXPECT_EQ(request.q_lens_size(), 2);
  EXPECT_EQ(request.kv_lens(0), 2);
  EXPECT_EQ(request.masks_size(), 1);
  EXPECT_EQ(request.outputs(0).dtype(), v1::DATA_TYPE_BF16);
  EXPECT_EQ(request.outputs(1).kind(), v1::OUTPUT_KIND_LSE);
  const v1::AttentionOptions& options = request.options();
  EXPECT_EQ(options.scale(), 0.5f);
  EXPECT_EQ(options.softcap(), 20);
  EXPECT_TRUE(options.causal());
  EXPECT_EQ(options.window_left(), 7);
  EXPECT_FALSE(options.has_window_right());
  EXPECT_EQ(options.alignment(), v1::ALIGNMENT_TOP_LEFT);
  EXPECT_EQ(options.alibi_slopes_size(), 1);
  EXPECT_EQ(options.sinks(0), 0.25f);
  EXPECT_EQ(options.diagonal_offsets(1), -1);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(CliTest, AttendQuantisesToFp8PerHead) {
  const std::vector<float> values = {1, -2, 0.25f, 448, 3, 0.5f};  // tokens 3, heads 2, dim 1
  const Tensor tensor{
      v1::DATA_TYPE_FP32, {3, 2, 1}, std::string(reinterpret_cast<const char*>(values.data()), 24)};
  ASSERT_TRUE(
      WriteTensorFile(Path("qkv.npz"), {{"q", tensor.view()}, {"k", tensor.view()}, {"v", tensor.view()}})
          .ok());
  ASSERT_EQ(RunWithServer({"attend", "--input=" + Path("qkv.npz"), "--dtype=fp8_e4m3", "--stats=none"}), 0)
      << err_.str();
  const v1::AttendRequest& request = server_.attention.last_request;
  EXPECT_EQ(request.k().dtype(), v1::DATA_TYPE_FP8_E4M3);
  EXPECT_THAT(request.k_scales(), ::testing::ElementsAre(3 / 448.0f, 1.0f));
  EXPECT_THAT(request.q_scales(), ::testing::ElementsAre(3 / 448.0f, 1.0f));
  // 1, 0.25 and 3 in units of 3/448: 149.3 -> 144, 37.3 -> 36, 448; -2, 448 and 0.5 as they are.
  EXPECT_EQ(request.raw(2), std::string("\x71\xc0\x61\x7e\x7e\x30"));
}

TEST_F(CliTest, AttendPassesTheScalesOfFp8BitsOn) {
  const Tensor bits{v1::DATA_TYPE_FP8_E4M3, {3, 2, 1}, "\x38\x38\x38\x38\x38\x38"};
  ASSERT_TRUE(
      WriteTensorFile(Path("qkv.npz"), {{"q", bits.view()}, {"k", bits.view()}, {"v", bits.view()}}).ok());
  ASSERT_EQ(RunWithServer(
                {"attend", "--input=" + Path("qkv.npz"), "--q-scales=0.5", "--v-scales=1,2", "--stats=none"}),
            0)
      << err_.str();
  const v1::AttendRequest& request = server_.attention.last_request;
  EXPECT_EQ(request.raw(1), bits.bytes);
  EXPECT_THAT(request.q_scales(), ::testing::ElementsAre(0.5f));
  EXPECT_THAT(request.k_scales(), ::testing::IsEmpty());
  EXPECT_THAT(request.v_scales(), ::testing::ElementsAre(1.0f, 2.0f));
}

TEST_F(CliTest, AttendStatsAreValidJson) {
  ASSERT_EQ(RunWithServer({"attend", "--input=" + Path("qkv.npz"), "--stats=json"}), 0);
  const auto json = nlohmann::json::parse(out_.str());
  EXPECT_EQ(json["ledger"]["memory"]["workspace_peak"], 1 << 20);
  EXPECT_EQ(json["outputs"][0]["shape"], (std::vector<int>{2, 1, 4}));
}

TEST_F(CliTest, ServerErrorsAreOneLineWithTheReason) {
  EXPECT_EQ(RunWithServer({"attend", "--input=" + Path("qkv.npz"), "--backend=refuse"}), 3);
  EXPECT_EQ(Error(),
            "tessera attend: INVALID_ARGUMENT: q heads: expected a multiple of 2, got 3 "
            "[HEAD_COUNT_NOT_DIVISIBLE]; "
            "retry after 250 ms\n");
}

TEST_F(CliTest, TimeoutIsAServerError) {
  EXPECT_EQ(RunWithServer({"attend", "--input=" + Path("qkv.npz"), "--backend=slow", "--timeout=0.05"}), 3);
  EXPECT_THAT(Error(), HasSubstr("DEADLINE_EXCEEDED"));
}

struct BadUse {
  Arguments arguments;
  int code;
  const char* message;
};

TEST_F(CliTest, BadUseIsOneLineWithTheFix) {
  std::ofstream(Path("bad.npy")) << "rubbish";
  const std::string npz = Path("qkv.npz"), bools = Path("bools.npz");
  const Tensor flags{v1::DATA_TYPE_BOOL, {2, 1, 4}, std::string(8, '\1')};
  ASSERT_TRUE(WriteTensorFile(bools, {{"q", flags.view()}, {"k", flags.view()}, {"v", flags.view()}}).ok());
  const BadUse cases[] = {
      {{"atend"}, 2, "did you mean attend?"},
      {{"bench", "compere"}, 2, "did you mean bench compare?"},
      {{"attend", "--inptu=x"}, 2, "did you mean --input?"},
      {{"attend"}, 2, "--q is missing; pass --q=FILE, or --input=FILE"},
      {{"attend", "--input=missing.npz"}, 1, "missing.npz: cannot open: No such file"},
      {{"attend", "--input=x.txt"}, 1, ".npy, .npz or .safetensors"},
      {{"attend", "--input=one.npy"}, 2, "holds one tensor and --input needs three; pass --q=FILE"},
      {{"attend", "--q=" + Path("bad.npy")}, 1, "not a valid .npy file"},
      {{"attend", "--input=" + npz, "--q=" + npz + ":nope"}, 1, "no tensor 'nope'; it holds k, q, v"},
      {{"attend", "--input=" + npz, "--out=out.txt"}, 2, "unknown extension"},
      {{"attend", "--input=" + npz, "--out=o.npy", "--lse"}, 2, "--lse-out=FILE"},
      {{"attend", "--input=" + npz, "--causal", "--window-right=2"}, 2, "drop one of the two"},
      {{"attend", "--input=" + bools, "--dtype=fp8_e4m3"}, 1, "cannot be turned into"},
      {{"attend", "--input=" + npz, "--dtype=fp8_e4m3", "--layout=bshd"}, 1, "an fp32 tensor of rank 4"},
      {{"attend", "--input=" + npz, "--dtype=fp8_e4m3", "--k-scales=1"}, 2, "get scales of their own"},
      {{"attend", "--input=" + npz, "--alibi=1,x"}, 2, "--alibi: expected a number"},
      {{"attend", "--input=" + npz, "--server=nowhere"}, 2, "is not HOST:PORT"},
      {{"attend", "--input=" + npz, "--timeout=-1"}, 2, "--timeout: expected seconds"},
      {{"attend", "--input=" + npz, "--server=unix:/nonexistent/s"}, 3, "start one with 'tessera-server"},
      {{"explain"}, 2, "--q is missing; pass its shape"},
      {{"explain", "--q=10y3"}, 2, "expected a shape such as 1024x32x128, got '10y3'"},
      {{"explain", "--q=-1x3"}, 2, "expected a shape"},
      {{"explain", "--q=1x1x8", "--mask=int8:1x1x1"}, 2, "expected bool, fp32, fp16 or bf16"},
      {{"explain", "--q=4", "--sinks=1"}, 2, "needs the head count"},
      {{"verify", "--cases=0"}, 2, "--cases: expected at least 1"},
      {{"verify", "--case=3"}, 2, "--case needs the --seed"},
      {{"verify", "--max-length=0"}, 2, "--max-length: expected 1 to"},
      {{"bench", "compare", "--n=0"}, 2, "--n: expected 1 to"},
      {{"bench", "compare", "--n=1000000", "--heads=32"}, 2, "do not fit one message"},
      {{"health", "--wach"}, 2, "did you mean --watch?"},
  };
  for (const BadUse& use : cases) {
    EXPECT_EQ(Run(use.arguments), use.code) << use.message;
    EXPECT_THAT(Error(), HasSubstr(use.message));
    EXPECT_THAT(err_.str(), StartsWith("tessera"));
  }
}

TEST_F(CliTest, HelpIsEverywhereAndFitsTheTerminal) {
  const std::vector<Arguments> all = {{"--help"},
                                      {"help"},
                                      {"attend", "--help"},
                                      {"help", "verify"},
                                      {"explain", "-h"},
                                      {"info", "--help"},
                                      {"health", "--help"},
                                      {"bench", "--help"},
                                      {"bench", "compare", "--help"},
                                      {"help", "bench"}};
  for (const Arguments& arguments : all) {
    ASSERT_EQ(Run(arguments), 0) << arguments[0];
    EXPECT_THAT(out_.str(), HasSubstr("Usage: tessera")) << arguments[0];
    std::istringstream lines(out_.str());
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 110u) << line;
  }
  EXPECT_EQ(Run({}), 2);
  EXPECT_EQ(Run({"--version"}), 0);
}

TEST_F(CliTest, HealthExitsWithZeroOnlyWhenServing) {
  EXPECT_EQ(RunWithServer({"health"}), 0);
  EXPECT_EQ(out_.str(), "SERVING\n");
  server_.health.status = grpc::health::v1::HealthCheckResponse::NOT_SERVING;
  EXPECT_EQ(RunWithServer({"health"}), 1);
  EXPECT_EQ(RunWithServer({"health", "--service=unknown"}), 3);
  EXPECT_EQ(RunWithServer({"health", "--watch"}), 3);
  EXPECT_EQ(out_.str(), "SERVING\nNOT_SERVING\n");
}

TEST_F(CliTest, ExplainAndInfoPrintTablesAndJson) {
  EXPECT_EQ(RunWithServer({"explain", "--q=1024x8x128", "--causal"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("4.00 KiB"));
  EXPECT_EQ(RunWithServer({"explain", "--q=1024x8x128", "--json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["workspace_bytes"], 4096);
  EXPECT_EQ(RunWithServer({"info"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("Tessera 9.9"));
  EXPECT_EQ(RunWithServer({"info", "--json"}), 0);
  EXPECT_EQ(nlohmann::json::parse(out_.str())["version"], "9.9");
}

// The fake returns v, which is no attention: verify must notice, and say how to see it again.
TEST_F(CliTest, VerifyFailsOnAWrongServer) {
  EXPECT_EQ(RunWithServer({"verify", "--cases=6", "--seed=5", "--max-length=20"}), 1);
  EXPECT_THAT(out_.str(), HasSubstr("repeat: tessera verify --server="));
  EXPECT_THAT(out_.str(), HasSubstr("--seed=5 --case="));
  EXPECT_THAT(out_.str(), HasSubstr("FAILED: "));
}

}  // namespace
}  // namespace tessera::client
