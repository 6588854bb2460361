// The command line against the real server: files to results, and the two commands that judge it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli/cli.h"
#include "client/cli/numbers.h"
#include "client/cli/random.h"
#include "client/tensor_files/tensor_file.h"
#include "tests/integration/subprocess.h"

namespace tessera::client {
namespace {

using ::testing::HasSubstr;

class CliServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tessera::testing::ProcessResult failure;
    server_ = tessera::testing::ServerProcess::Start(TESSERA_SERVER_BINARY, {"--threads=2"}, &failure);
    ASSERT_NE(server_, nullptr) << failure.err;
  }
  static void TearDownTestSuite() { server_.reset(); }

  void SetUp() override {
    directory_ = std::filesystem::temp_directory_path() /
                 ("tessera_cli_server_" + std::to_string(getpid()) + "_" +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return (directory_ / name).string(); }

  int Run(Arguments arguments) {
    out_.str("");
    err_.str("");
    arguments.push_back("--server=" + server_->address());
    Console console{out_, err_};
    return RunCli(arguments, console);
  }

  static std::unique_ptr<tessera::testing::ServerProcess> server_;
  std::filesystem::path directory_;
  std::ostringstream out_, err_;
};
std::unique_ptr<tessera::testing::ServerProcess> CliServerTest::server_;

// Row i of one causal head with as many queries as keys, in float64.
std::vector<double> CausalRow(const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<float>& v, size_t i, size_t dim) {
  std::vector<double> weights(i + 1), row(dim, 0.0);
  double sum = 0;
  for (size_t j = 0; j <= i; ++j) {
    double score = 0;
    for (size_t d = 0; d < dim; ++d) score += double{q[i * dim + d]} * double{k[j * dim + d]};
    sum += weights[j] = std::exp(score / std::sqrt(static_cast<double>(dim)));
  }
  for (size_t j = 0; j <= i; ++j) {
    for (size_t d = 0; d < dim; ++d) row[d] += weights[j] / sum * double{v[j * dim + d]};
  }
  return row;
}

TEST_F(CliServerTest, AttendComputesAttention) {
  constexpr size_t kTokens = 37, kDim = 16;
  Random random(7);
  std::vector<float> values[3];
  std::map<std::string, Tensor> tensors;
  for (size_t t = 0; t < 3; ++t) {
    for (size_t i = 0; i < kTokens * kDim; ++i) values[t].push_back(random.Normal());
    tensors[std::string(1, "qkv"[t])] = FromFloats(values[t], v1::DATA_TYPE_FP32, {kTokens, 1, kDim});
  }
  for (const char* extension : {".npz", ".safetensors"}) {
    std::map<std::string, TensorView> views;
    for (const auto& [name, tensor] : tensors) views.emplace(name, tensor.view());
    ASSERT_TRUE(WriteTensorFile(Path(std::string("in") + extension), views).ok());
    ASSERT_EQ(Run({"attend", "--input=" + Path(std::string("in") + extension), "--causal",
                   "--out=" + Path("out.npy")}),
              0)
        << err_.str();
    const auto written = ReadTensorFile(Path("out.npy"));
    ASSERT_TRUE(written.ok()) << written.status();
    const auto output = ToTensor(written->at(""), std::nullopt);
    ASSERT_TRUE(output.ok()) << output.status();
    EXPECT_THAT(output->shape, ::testing::ElementsAre(kTokens, 1, kDim));
    const std::vector<float> actual = ToFloats(*output);
    for (size_t i = 0; i < kTokens; ++i) {
      const std::vector<double> expected = CausalRow(values[0], values[1], values[2], i, kDim);
      for (size_t d = 0; d < kDim; ++d) EXPECT_NEAR(actual[i * kDim + d], expected[d], 2e-6);
    }
  }
}

TEST_F(CliServerTest, AttendShowsWhatTheServerMinds) {
  const Tensor q = FromFloats(std::vector<float>(3 * 8), v1::DATA_TYPE_FP32, {1, 3, 8});
  const Tensor k = FromFloats(std::vector<float>(2 * 8), v1::DATA_TYPE_FP32, {1, 2, 8});
  ASSERT_TRUE(WriteTensorFile(Path("in.npz"), {{"q", q.view()}, {"k", k.view()}, {"v", k.view()}}).ok());
  EXPECT_EQ(Run({"attend", "--input=" + Path("in.npz"), "--out=" + Path("out.npy")}), 3);
  EXPECT_THAT(err_.str(), HasSubstr("tessera attend: INVALID_ARGUMENT: "));
  EXPECT_EQ(out_.str(), "");
  EXPECT_FALSE(std::filesystem::exists(Path("out.npy")));
}

class CliServerVerifyTest : public CliServerTest, public ::testing::WithParamInterface<const char*> {};
TEST_P(CliServerVerifyTest, EveryBackendPasses) {
  EXPECT_EQ(Run({"verify", "--cases=45", "--max-length=130", std::string("--backend=") + GetParam()}), 0)
      << out_.str() << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("OK: 45 cases within bounds"));
}
INSTANTIATE_TEST_SUITE_P(Backends, CliServerVerifyTest,
                         ::testing::Values("auto", "cpu_fused", "cpu_standard"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(CliServerTest, VerifyPassesFp8) {
  for (const char* backend : {"cpu_fused", "cpu_unfused"}) {
    EXPECT_EQ(Run({"verify", "--cases=12", "--max-length=100", "--dtypes=fp8_e4m3",
                   std::string("--backend=") + backend}),
              0)
        << out_.str() << err_.str();
    EXPECT_THAT(out_.str(), HasSubstr("fp8_e4m3"));
  }
}

// Against fp32: what fp8 costs is its rounding, once each of Q, K and V.
TEST_F(CliServerTest, AttendQuantisesToFp8) {
  Random random(5);
  std::vector<float> values(64 * 2 * 32);
  for (float& value : values) value = 30 * random.Normal();
  const Tensor tensor = FromFloats(values, v1::DATA_TYPE_FP32, {64, 2, 32});
  ASSERT_TRUE(
      WriteTensorFile(Path("in.npz"), {{"q", tensor.view()}, {"k", tensor.view()}, {"v", tensor.view()}})
          .ok());
  std::vector<float> outputs[2];
  for (const bool fp8 : {false, true}) {
    Arguments arguments{"attend", "--input=" + Path("in.npz"), "--scale=0.0001", "--out-dtype=fp32",
                        "--out=" + Path("out.npy")};
    if (fp8) arguments.push_back("--dtype=fp8_e4m3");
    ASSERT_EQ(Run(arguments), 0) << err_.str();
    const auto written = ReadTensorFile(Path("out.npy"));
    ASSERT_TRUE(written.ok()) << written.status();
    outputs[fp8 ? 1 : 0] = ToFloats(*ToTensor(written->at(""), std::nullopt));
  }
  double error = 0, size = 0;
  for (size_t i = 0; i < outputs[0].size(); ++i) {
    error += std::pow(outputs[1][i] - outputs[0][i], 2);
    size += std::pow(outputs[0][i], 2);
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(std::sqrt(error / size), 0.08);
}

TEST_F(CliServerTest, VerifyRepeatsACaseBySeed) {
  ASSERT_EQ(Run({"verify", "--seed=11", "--case=4", "--verbose"}), 0) << out_.str();
  const std::string once = out_.str();
  ASSERT_EQ(Run({"verify", "--seed=11", "--case=4", "--verbose"}), 0);
  EXPECT_EQ(out_.str(), once);
  EXPECT_THAT(once, HasSubstr("case 4 ok"));
}

TEST_F(CliServerTest, VerifyStopsAtAnUnknownBackend) {
  EXPECT_EQ(Run({"verify", "--backend=none_such"}), 3);
  EXPECT_THAT(err_.str(), HasSubstr("tessera verify: NOT_FOUND: "));
}

TEST_F(CliServerTest, BenchCompareMeasuresAndSaysWhatItLeftOut) {
  ASSERT_EQ(Run({"bench", "compare", "--n=64,128", "--heads=2", "--head-dim=32", "--rounds=3", "--causal",
                 "--standard=cpu_standard", "--json"}),
            0)
      << out_.str() << err_.str();
  const auto json = nlohmann::json::parse(out_.str());
  ASSERT_EQ(json["rows"].size(), 2u);
  EXPECT_EQ(json["rows"][1]["n"], 128);
  EXPECT_EQ(json["rows"][1]["fused"]["compute_us"].size(), 3u);
  EXPECT_EQ(json["rows"][1]["standard"]["backend"], "cpu_standard");
  EXPECT_LT(json["rows"][1]["fused"]["relative_error"], 1e-6);
  EXPECT_TRUE(json.contains("seed"));

  ASSERT_EQ(Run({"bench", "compare", "--n=64,256", "--heads=2", "--rounds=2", "--standard=cpu_standard",
                 "--max-standard-seconds=0.000001"}),
            0);
  EXPECT_THAT(out_.str(), HasSubstr("N = 64, standard 1 of 2 rounds"));
  EXPECT_THAT(out_.str(), HasSubstr("N = 256, standard skipped: one call would take about"));
}

TEST_F(CliServerTest, ExplainAndInfoKnowTheBackends) {
  ASSERT_EQ(Run({"explain", "--q=1024x8x128", "--k=1024x2x128", "--causal"}), 0) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("cpu_fused on cpu"));
  EXPECT_THAT(out_.str(), HasSubstr("gqa"));
  ASSERT_EQ(Run({"info"}), 0);
  EXPECT_THAT(out_.str(), HasSubstr("cpu_standard"));
  EXPECT_EQ(Run({"health"}), 0);
  EXPECT_EQ(Run({"health", "--service=tessera.v1.AttentionService"}), 0);
}

}  // namespace
}  // namespace tessera::client
