#include "server/wire_message.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/request_builder.h"

namespace tessera {
namespace {

using testing::ExpectError;

constexpr size_t kMaxBytes = 128;

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

v1::AttendRequest Named(const std::string& id) {
  v1::AttendRequest request = testing::MakePackedRequest();
  request.set_id(id);
  return request;
}

TEST(ReadRequestIdTest, FindsItWhereverItStands) {
  EXPECT_EQ(ReadRequestId(SerializeMessage(Named("seven")), kMaxBytes), "seven");
  v1::AttendRequest rest = Named("");
  v1::AttendRequest only_id;
  only_id.set_id("last");
  EXPECT_EQ(ReadRequestId(BufferOf(rest.SerializeAsString() + only_id.SerializeAsString()), kMaxBytes),
            "last");
}

TEST(ReadRequestIdTest, ReadsAcrossSlices) {
  const std::string bytes = Named("divided").SerializeAsString();
  const grpc::Slice slices[] = {grpc::Slice(bytes.substr(0, 4)), grpc::Slice(bytes.substr(4))};
  EXPECT_EQ(ReadRequestId(grpc::ByteBuffer(slices, 2), kMaxBytes), "divided");
}

TEST(ReadRequestIdTest, IsEmptyWhereThereIsNone) {
  EXPECT_EQ(ReadRequestId(grpc::ByteBuffer(), kMaxBytes), "");
  EXPECT_EQ(ReadRequestId(SerializeMessage(Named("")), kMaxBytes), "");
  EXPECT_EQ(ReadRequestId(SerializeMessage(Named(std::string(kMaxBytes + 1, 'x'))), kMaxBytes), "");
  EXPECT_EQ(ReadRequestId(BufferOf("\x0a\x7fshort"), kMaxBytes), "") << "cut off";
  EXPECT_EQ(ReadRequestId(BufferOf("\x0a\x02\xff\xfe"), kMaxBytes), "") << "no UTF-8";
  EXPECT_EQ(ReadRequestId(BufferOf("\x07\x07\x07"), kMaxBytes), "") << "no message";
}

constexpr int64_t kNoLimit = int64_t{1} << 40;

std::string Repeated(const std::string& bytes, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) all += bytes;
  return all;
}

std::string ExplainOf(const std::string& attend) {
  v1::ExplainRequest request;
  request.mutable_request();
  std::string bytes = request.SerializeAsString();  // field 1, of no bytes
  bytes.pop_back();
  for (size_t length = attend.size();; length >>= 7) {
    bytes.push_back(static_cast<char>((length & 0x7f) | (length >= 0x80 ? 0x80 : 0)));
    if (length < 0x80) return bytes + attend;
  }
}

// Which would cost protobuf many times their size in memory.
TEST(WireRequestTest, RefusesFloodsOfSmallMessages) {
  struct {
    std::string flood;
    const char* reason;
  } const cases[] = {
      {Repeated(std::string("\x52\x00", 2), (1 << 20) + 1), "TOO_MANY_MASKS"},
      {Repeated(std::string("\x5a\x00", 2), 17), "TOO_MANY_OUTPUTS"},
      {Repeated(std::string("\x7a\x00", 2), (1 << 20) + 4), "TOO_MANY_PAYLOADS"},
      {Repeated(std::string("\x38\x01", 2), (16 << 20) + 1), "HEADER_TOO_LARGE"},  // q_lens
      {Repeated(std::string("\x1a\x00", 2), (16 << 20) + 1), "HEADER_TOO_LARGE"},  // unknown, by its type
      {Repeated(std::string("\x60\x00", 2), (16 << 20) + 1), "HEADER_TOO_LARGE"},  // q_scales, but varints
  };
  for (const auto& [flood, reason] : cases) {
    SCOPED_TRACE(reason);
    ExpectError(WireRequest::Parse(BufferOf(flood), kNoLimit).status(), absl::StatusCode::kInvalidArgument,
                reason);
    ExpectError(WireRequest::ParseExplain(BufferOf(ExplainOf(flood)), kNoLimit).status(),
                absl::StatusCode::kInvalidArgument, reason);
  }
}

TEST(WireRequestTest, TakesAnyNumberOfScales) {
  v1::AttendRequest request = Named("scaled");
  request.mutable_q_scales()->Resize(9 << 20, 0.5f);  // 36 MiB
  const auto parsed = WireRequest::Parse(BufferOf(request.SerializeAsString()), kNoLimit);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->header().q_scales_size(), 9 << 20);
}

TEST(WireRequestTest, CountsAcrossThePartsOfAnExplainRequest) {
  const std::string half = ExplainOf(Repeated(std::string("\x5a\x00", 2), 9));
  EXPECT_TRUE(WireRequest::ParseExplain(BufferOf(half), kNoLimit).ok());
  ExpectError(WireRequest::ParseExplain(BufferOf(half + half), kNoLimit).status(),
              absl::StatusCode::kInvalidArgument, "TOO_MANY_OUTPUTS");
  ExpectError(WireRequest::ParseExplain(BufferOf(Repeated(ExplainOf(""), 17)), kNoLimit).status(),
              absl::StatusCode::kInvalidArgument, "TOO_MANY_PARTS");
}

TEST(WireRequestTest, TakesTheMergedRequestOfAnExplainRequest) {
  v1::AttendRequest backend;
  backend.set_backend("cpu_standard");
  const std::string bytes =
      ExplainOf(Named("first").SerializeAsString()) + ExplainOf(backend.SerializeAsString());
  v1::ExplainRequest theirs;
  ASSERT_TRUE(theirs.ParseFromString(bytes));
  const auto ours = WireRequest::ParseExplain(BufferOf(bytes), kNoLimit);
  ASSERT_TRUE(ours.ok()) << ours.status();
  theirs.mutable_request()->clear_raw();
  EXPECT_EQ((*ours)->header().SerializeAsString(), theirs.request().SerializeAsString());
  EXPECT_EQ((*ours)->TakePayload().size(), 3u);
}

TEST(WireRequestTest, RefusesAnExplainRequestThatIsNone) {
  ExpectError(WireRequest::ParseExplain(grpc::ByteBuffer(), kNoLimit).status(),
              absl::StatusCode::kInvalidArgument, "REQUEST_MISSING");
  const std::string good = ExplainOf(Named("cut").SerializeAsString());
  for (const std::string& bad :
       {good.substr(0, good.size() - 1), good + "\x0a", ExplainOf("\x0a\x06short")}) {
    ExpectError(WireRequest::ParseExplain(BufferOf(bad), kNoLimit).status(),
                absl::StatusCode::kInvalidArgument, "MALFORMED_MESSAGE");
  }
}

}  // namespace
}  // namespace tessera
