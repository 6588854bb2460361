#include "server/status_codec.h"

#include <chrono>
#include <string>

#include "backend/core/error.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "tests/server/wire_status.h"

namespace tessera {
namespace {

using testing::FromGrpcStatus;
using testing::FromRpcStatus;

absl::Status FullError() {
  return MakeError(absl::StatusCode::kResourceExhausted, "queue: expected at most 4, got 5",
                   {.reason = "TOO_MANY_REQUESTS",
                    .metadata = {{"expected", "at most 4"}, {"actual", "5"}},
                    .retry_after = std::chrono::milliseconds(1250)});
}

void ExpectSame(const absl::Status& actual, const absl::Status& expected) {
  EXPECT_EQ(actual.code(), expected.code());
  EXPECT_EQ(actual.message(), expected.message());
  const auto a = GetErrorDetail(actual), e = GetErrorDetail(expected);
  ASSERT_EQ(a.has_value(), e.has_value());
  if (!e) return;
  EXPECT_EQ(a->reason, e->reason);
  EXPECT_EQ(a->metadata, e->metadata);
  EXPECT_EQ(a->retry_after, e->retry_after);
}

TEST(StatusCodecTest, CarriesReasonMetadataAndRetryBothWays) {
  ExpectSame(FromGrpcStatus(ToGrpcStatus(FullError())), FullError());
  ExpectSame(FromRpcStatus(ToRpcStatus(FullError())), FullError());
}

TEST(StatusCodecTest, CarriesAStatusWithoutDetail) {
  const absl::Status plain = absl::InternalError("boom");
  ExpectSame(FromGrpcStatus(ToGrpcStatus(plain)), plain);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusCodecTest, NamesTheDomain) {
  google::rpc::ErrorInfo info;
  ASSERT_GE(ToRpcStatus(FullError()).details_size(), 1);
  ASSERT_TRUE(ToRpcStatus(FullError()).details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "tessera");
}

TEST(StatusCodecTest, FitsIntoTrailersWhateverTheErrorQuotes) {
  ErrorDetail detail{.reason = "BACKEND_NOT_FOUND", .metadata = {}, .retry_after = std::nullopt};
  for (int i = 0; i < 100; ++i) detail.metadata["key" + std::to_string(i)] = std::string(100000, 'x');
  std::string accents;
  for (int i = 0; i < 50000; ++i) accents += "\xC3\xA9";
  const grpc::Status status =
      ToGrpcStatus(MakeError(absl::StatusCode::kNotFound, "a" + accents, std::move(detail)));
  // grpc-message is percent-encoded (3 bytes each), the details are base64.
  EXPECT_LT(status.error_message().size() * 3 + status.error_details().size() * 4 / 3, 8192u);
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details())) << "cut inside a UTF-8 sequence";
}

}  // namespace
}  // namespace tessera
