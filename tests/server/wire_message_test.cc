#include "server/wire_message.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/server/request_builder.h"

namespace tessera {
namespace {

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

}  // namespace
}  // namespace tessera
