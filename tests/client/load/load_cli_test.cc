// tessera load against a server in this process: what it counts, what it catches, what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli/cli.h"
#include "tests/client/load/gated_server.h"

namespace tessera::load {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class LoadCliTest : public ::testing::Test {
 protected:
  int Run(client::Arguments arguments) {
    out_.str("");
    err_.str("");
    arguments.insert(arguments.begin(), "load");
    client::Console console{out_, err_};
    return client::RunCli(arguments, console);
  }
  // Small requests to the server here, JSON to stdout.
  json Load(client::Arguments arguments) {
    for (const char* more :
         {"--q-len=1", "--heads=1", "--head-dim=8", "--verify=0", "--json=-", "--seed=1"}) {
      arguments.push_back(more);
    }
    arguments.push_back("--server=" + server_.address());
    EXPECT_EQ(Run(std::move(arguments)), 0) << err_.str();
    return json::parse(out_.str());
  }

  GatedServer server_;
  std::ostringstream out_, err_;
};

// The reason why there is an open loop: one second in which nothing is answered keeps a thousand requests
// waiting. A closed loop sends one of them, and its p99 does not know.
TEST_F(LoadCliTest, OpenLoopPercentilesCatchAStall) {
  server_.Stall(milliseconds(300), milliseconds(1000));
  const json open =
      Load({"--rate=1000", "--arrivals=constant", "--warmup=0.1", "--duration=1.6"})["points"][0];
  EXPECT_GT(open["latency_ms"]["p99"], 900);
  EXPECT_GT(open["latency_ms"]["p50"], 100);
  EXPECT_EQ(open["requests"]["ok"], open["requests"]["due"]);

  server_.Stall(milliseconds(300), milliseconds(1000));
  const json closed = Load({"--concurrency=1", "--warmup=0.1", "--duration=1.6"})["points"][0];
  EXPECT_GT(closed["latency_ms"]["max"], 900);
  EXPECT_LT(closed["latency_ms"]["p99"], 500);
}

TEST_F(LoadCliTest, TotalsAgreeWithTheServers) {
  server_.RefuseEvery(4);
  const json report = Load({"--concurrency=8", "--threads=2", "--channels=2", "--warmup=0", "--count=400"});
  const json& requests = report["points"][0]["requests"];
  EXPECT_EQ(requests["due"], 400);
  EXPECT_EQ(requests["refused_by_server"], 100);
  EXPECT_EQ(requests["ok"], 300);
  EXPECT_EQ(server_.received(), 400);
  const json& error = report["points"][0]["errors"][0];
  EXPECT_EQ(error["code"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(error["reason"], "TOO_MANY_REQUESTS");
  EXPECT_EQ(error["count"], 100);
}

// A full client and passed deadlines: each request is in exactly one group, and the server knows of no other.
TEST_F(LoadCliTest, RequestsThatDidNotReachTheServerAreApart) {
  server_.Stall(milliseconds(100), milliseconds(400));
  const json requests = Load({"--rate=1000", "--warmup=0", "--duration=0.8", "--max-in-flight=20",
                              "--deadline=150"})["points"][0]["requests"];
  const int64_t ok = requests["ok"], no_answer = requests["no_answer"], not_sent = requests["not_sent"];
  EXPECT_GT(not_sent, 0);
  EXPECT_GT(no_answer, 0);
  EXPECT_GE(ok, requests["ok_in_time"]);
  EXPECT_EQ(ok + no_answer + not_sent, requests["due"]);
  EXPECT_GE(server_.received(), ok);
  EXPECT_LE(server_.received(), ok + no_answer);
}

TEST_F(LoadCliTest, CountsTokensWorkAndTime) {
  const json point = Load({"--concurrency=2", "--warmup=0", "--count=50", "--sequences=3"})["points"][0];
  const double seconds = point["seconds"];
  EXPECT_NEAR(point["throughput"]["tokens_per_s"].get<double>() * seconds, 150, 1e-6);
  EXPECT_NEAR(point["throughput"]["tflop_per_s"].get<double>() * seconds, 50 * 1000 / 1e12, 1e-15);
  EXPECT_DOUBLE_EQ(point["mean_time_us"]["compute"], 10);
  EXPECT_DOUBLE_EQ(point["mean_time_us"]["server"], 5);
  EXPECT_GT(point["mean_time_us"]["wire"], 0);
}

TEST_F(LoadCliTest, ReplaysATraceWithItsLengths) {
  const auto path = std::filesystem::temp_directory_path() / ("tessera_trace_" + std::to_string(getpid()));
  std::ofstream(path) << "0,2\n0.01,4\n0.02,6\n0.1,8\n";
  const json point = Load({"--trace=" + path.string(), "--trace-speed=2"})["points"][0];
  std::filesystem::remove(path);
  EXPECT_EQ(point["requests"]["ok"], 4);
  EXPECT_NEAR(point["throughput"]["tokens_per_s"].get<double>() * point["seconds"].get<double>(), 20, 1e-6);
}

TEST_F(LoadCliTest, SearchFindsARateAndOverloadAnEnd) {
  const json found =
      Load({"--find-rate", "--p99-limit=0.001", "--warmup=0", "--duration=0.02"});  // nothing is that fast
  EXPECT_EQ(found["searches"][0]["highest_rate_within_limit_per_s"], 0);
  EXPECT_GT(found["points"].size(), 1u);

  server_.RefuseEvery(2);
  const json over = Load({"--overload=2", "--capacity=200", "--warmup=0", "--duration=0.7"});
  const json& result = over["overloads"][0];
  EXPECT_EQ(result["offered_per_s"], 400);
  EXPECT_NEAR(result["refused_share"], 0.5, 0.1);
  EXPECT_TRUE(result["recovery_s"].is_null());
  EXPECT_TRUE(result["latency_recovery_s"].is_null());  // it refuses to the end
  EXPECT_EQ(over["points"].size(), 3u);
}

// What a reader of the JSON may rely on.
TEST_F(LoadCliTest, JsonKeepsToItsSchema) {
  const json report = Load({"--concurrency=1,2", "--warmup=0", "--count=20", "--rounds=2"});
  EXPECT_EQ(report["format"], "tessera-load-1");
  EXPECT_TRUE(report["workload"].is_string());
  ASSERT_EQ(report["points"].size(), 2u);
  for (const json& point : report["points"]) {
    for (const char* name : {"target", "transport", "load", "loop"})
      EXPECT_TRUE(point[name].is_string()) << name;
    for (const char* name : {"rounds", "seconds", "client_cpu_cores", "concurrency"}) {
      EXPECT_TRUE(point[name].is_number()) << name;
    }
    for (const char* group : {"latency_ms", "latency_from_send_ms", "send_lag_ms"}) {
      for (const char* name : {"count", "min", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"}) {
        EXPECT_TRUE(point[group][name].is_number()) << group << " " << name;
      }
    }
    for (const char* name : {"due", "ok", "ok_in_time", "refused_by_server", "no_answer", "not_sent"}) {
      EXPECT_TRUE(point["requests"][name].is_number_integer()) << name;
    }
    for (const char* name : {"late", "wire", "queue", "transfer", "compute", "server"}) {
      EXPECT_TRUE(point["mean_time_us"][name].is_number()) << name;
    }
    EXPECT_EQ(point["requests"]["ok"], 40);  // both rounds
    EXPECT_TRUE(point["errors"].is_array());
    EXPECT_TRUE(point["bottleneck"]["what"].is_string());
    EXPECT_TRUE(point["bottleneck"]["reasons"].is_array());
    int64_t histogram = 0, timeline = 0;
    for (const json& bucket : point["latency_histogram_ms"]) histogram += bucket[1].get<int64_t>();
    for (const json& slot : point["timeline_100ms"]) timeline += slot[0].get<int64_t>();
    EXPECT_EQ(histogram, 40);
    EXPECT_EQ(timeline, 40);
  }
}

TEST_F(LoadCliTest, WritesTablesCsvAndAPageThatLoadsNothing) {
  const auto stem = std::filesystem::temp_directory_path() / ("tessera_load_" + std::to_string(getpid()));
  const std::string csv_path = stem.string() + ".csv", html_path = stem.string() + ".html";
  server_.RefuseEvery(5);
  ASSERT_EQ(Run({"--server=" + server_.address(), "--verify=0", "--warmup=0", "--count=20",
                 "--concurrency=1,2", "--csv=" + csv_path, "--html=" + html_path, "--backend=<b>"}),
            0)
      << err_.str();
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("requests/s"), HasSubstr("p99.9"), HasSubstr("bottleneck: "),
                                HasSubstr("RESOURCE_EXHAUSTED: TOO_MANY_REQUESTS")));
  const auto read = [](const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    std::filesystem::remove(path);
    return text.str();
  };
  const std::string csv = read(csv_path);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
  const std::string header = csv.substr(0, csv.find('\n'));
  const std::string row =
      csv.substr(header.size() + 1, csv.find('\n', header.size() + 1) - header.size() - 1);
  EXPECT_EQ(std::count(header.begin(), header.end(), ','), std::count(row.begin(), row.end(), ','));
  const std::string html = read(html_path);
  EXPECT_THAT(html, AllOf(HasSubstr("<svg"), HasSubstr("Latency distribution"), HasSubstr("&lt;b&gt;")));
  for (const char* external : {"http:", "https:", "src=", "href=", "<script", "url(", "<b>,"}) {
    EXPECT_THAT(html, Not(HasSubstr(external)));
  }
}

struct BadUsage {
  const char* name;
  client::Arguments arguments;
  const char* expected;
  const char* actual;
};
class LoadUsageTest : public LoadCliTest, public ::testing::WithParamInterface<BadUsage> {};
TEST_P(LoadUsageTest, SaysWhatWasExpectedAndGiven) {
  EXPECT_EQ(Run(GetParam().arguments), 2);
  EXPECT_THAT(err_.str(), AllOf(HasSubstr("tessera load: "), HasSubstr(GetParam().expected),
                                HasSubstr(GetParam().actual)));
  EXPECT_EQ(out_.str(), "");
}
INSTANTIATE_TEST_SUITE_P(
    All, LoadUsageTest,
    ::testing::Values(
        BadUsage{"concurrency", {"--concurrency=0"}, "--concurrency: expected numbers from 1", "got '0'"},
        BadUsage{"backward_sweep", {"--concurrency=8..2"}, "--concurrency: expected", "got '8..2'"},
        BadUsage{"rate", {"--rate=0"}, "--rate: expected 0.001 to", "got 0"},
        BadUsage{"not_a_rate", {"--rate=fast"}, "--rate: expected", "fast"},
        BadUsage{"two_loads", {"--rate=1", "--concurrency=1"}, "expected one", "--concurrency and --rate"},
        BadUsage{"search_without_limit", {"--find-rate"}, "expected both", "got one"},
        BadUsage{"speed_alone", {"--trace-speed=2"}, "for --trace", "missing"},
        BadUsage{"capacity_alone", {"--capacity=5"}, "for --overload", "missing"},
        BadUsage{"q_len", {"--q-len=0..4"}, "--q-len: expected N, A..B", "got '0..4'"},
        BadUsage{"dtype", {"--dtype=fp64"}, "--dtype: expected fp32", "got 'fp64'"},
        BadUsage{
            "heads", {"--heads=3", "--kv-heads=2"}, "heads: expected a multiple of kv-heads (2)", "got 3"},
        BadUsage{"duration", {"--duration=-1"}, "--duration: expected 0.001 to", "got -1"},
        BadUsage{"verify", {"--verify=2"}, "--verify: expected 0 to 1", "got 2"},
        BadUsage{
            "too_large", {"--q-len=2000000", "--heads=64"}, "expected tensors of at most", "got 128000000"},
        BadUsage{"address", {"--server=nowhere"}, "is not HOST:PORT", "'nowhere'"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(LoadCliTest, SaysThatNobodyAnswers) {
  EXPECT_EQ(Run({"--server=unix:/no/such/socket"}), 3);
  EXPECT_THAT(err_.str(), HasSubstr("no server answers at unix:/no/such/socket"));
  EXPECT_EQ(Run({"--trace=/no/such/trace"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("/no/such/trace"));
}

}  // namespace
}  // namespace tessera::load
