#include "client/load/server_totals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera::load {
namespace {

TEST(ServerTotalsTest, SumsTheAttendRequestsOfAllBackends) {
  const CountsByCode counts = ParseRequestsTotal(
      "# TYPE tessera_requests_total counter\n"
      "tessera_requests_total{method=\"Attend\",backend=\"a\",code=\"OK\"} 40\n"
      "tessera_requests_total{method=\"Attend\",backend=\"b\",code=\"OK\"} 2\r\n"
      "tessera_requests_total{method=\"Explain\",backend=\"a\",code=\"OK\"} 7\n"
      "tessera_requests_total{code=\"RESOURCE_EXHAUSTED\",backend=\"none\",method=\"Attend\"} 1e+3\n"
      "tessera_other_total{method=\"Attend\",code=\"OK\"} 5\n");
  EXPECT_EQ(counts, (CountsByCode{{"OK", 42}, {"RESOURCE_EXHAUSTED", 1000}}));
}

TEST(ServerTotalsTest, UnansweredRequestsMayHaveReachedTheServer) {
  TotalsComparison totals{{{"OK", 10}}, {{"OK", 11}, {"DEADLINE_EXCEEDED", 2}}, 5};
  EXPECT_EQ(totals.reached(), 3);
  EXPECT_TRUE(totals.agree());
  totals.unanswered = 2;  // the server knows of a request that nobody sent
  EXPECT_FALSE(totals.agree());
  totals = {{{"OK", 10}}, {{"OK", 9}, {"CANCELLED", 4}}, 5};  // one of its answers is not counted
  EXPECT_FALSE(totals.agree());
}

TEST(ServerTotalsTest, SaysWhatItExpected) {
  for (const char* address : {"here", ":1", "host:"}) {
    const auto counts = ReadRequestsTotal(address);
    EXPECT_EQ(counts.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(counts.status().message()), ::testing::HasSubstr("expected HOST:PORT, got"));
  }
  EXPECT_EQ(ReadRequestsTotal("127.0.0.1:1").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tessera::load
