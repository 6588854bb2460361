#include "backend/core/error.h"

#include <random>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "gtest/gtest.h"
#include "tests/backend/seed.h"

namespace tessera {
namespace {

using std::chrono::milliseconds;

void ExpectSame(const ErrorDetail& a, const ErrorDetail& b) {
  EXPECT_EQ(a.reason, b.reason);
  EXPECT_EQ(a.metadata, b.metadata);
  EXPECT_EQ(a.retry_after, b.retry_after);
}

TEST(ErrorTest, InvalidArgumentSaysExpectedAndActual) {
  const absl::Status status = InvalidArgument("HEAD_DIM_INVALID", "head_dim_qk", "at least 1", "0");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "head_dim_qk: expected at least 1, got 0");
  const auto detail = GetErrorDetail(status);
  ASSERT_TRUE(detail);
  ExpectSame(*detail, {.reason = "HEAD_DIM_INVALID",
                       .metadata = {{"field", "head_dim_qk"}, {"expected", "at least 1"}, {"actual", "0"}},
                       .retry_after = std::nullopt});
}

TEST(ErrorTest, StatusWithoutDetail) {
  EXPECT_FALSE(GetErrorDetail(absl::OkStatus()));
  EXPECT_FALSE(GetErrorDetail(absl::NotFoundError("x")));
  EXPECT_FALSE(GetErrorDetail(MakeError(absl::StatusCode::kOk, "", {.reason = "NONE"})));
}

TEST(ErrorTest, DetailSurvivesAnyBytes) {
  std::mt19937_64 random(testing::DrawSeed());
  const auto text = [&random] {
    std::string bytes(random() % 20, '\0');
    for (char& c : bytes) c = "0123456789:\0\n\xff"[random() % 14];
    return bytes;
  };
  for (int round = 0; round < 2000; ++round) {
    ErrorDetail detail;
    detail.reason = text();
    for (uint64_t entries = random() % 4; entries > 0; --entries) detail.metadata[text()] = text();
    if (random() % 2 == 0) detail.retry_after = milliseconds(static_cast<int64_t>(random()));
    const auto back = GetErrorDetail(MakeError(absl::StatusCode::kInternal, text(), detail));
    ASSERT_TRUE(back);
    ExpectSame(*back, detail);
  }
}

TEST(ErrorTest, MalformedPayloadIsNoDetail) {
  const absl::Status good =
      MakeError(absl::StatusCode::kInternal, "m", {.reason = "R", .metadata = {{"k", "v"}}});
  std::string url, payload;
  good.ForEachPayload([&](absl::string_view type_url, const absl::Cord& cord) {
    url = std::string(type_url);
    payload = std::string(cord);
  });
  for (const std::string& bad : {payload.substr(0, payload.size() - 1), payload + "1:", payload + "1:k",
                                 std::string("9999999999999999999:x"), std::string("1"), std::string("x"),
                                 std::string(), std::string("1:R1:x"), std::string("-1:R0:")}) {
    absl::Status status(absl::StatusCode::kInternal, "m");
    status.SetPayload(url, absl::Cord(bad));
    EXPECT_FALSE(GetErrorDetail(status)) << bad;
  }
}

TEST(ErrorTest, PrefixKeepsCodeAndDetail) {
  const ErrorDetail detail{.reason = "R", .metadata = {{"expected", "1"}}, .retry_after = milliseconds(20)};
  const absl::Status status =
      Prefixed("batch 3", MakeError(absl::StatusCode::kOutOfRange, "too far", detail));
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(std::string(status.message()), "batch 3: too far");
  ASSERT_TRUE(GetErrorDetail(status));
  ExpectSame(*GetErrorDetail(status), detail);
  EXPECT_EQ(Prefixed("batch 3", absl::OkStatus()), absl::OkStatus());
}

absl::StatusOr<std::string> Twice(absl::StatusOr<std::string> text) {
  TESSERA_ASSIGN_OR_RETURN(const std::string value, std::move(text));
  TESSERA_RETURN_IF_ERROR(value.empty() ? absl::InvalidArgumentError("empty") : absl::OkStatus());
  return value + value;
}

TEST(ErrorTest, MacrosPropagate) {
  EXPECT_EQ(*Twice(std::string("ab")), "abab");
  EXPECT_EQ(Twice(std::string()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Twice(absl::NotFoundError("gone")).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tessera
