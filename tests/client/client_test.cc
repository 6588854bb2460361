#include "client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/error.h"
#include "client/fp8.h"
#include "tests/client/fake_service.h"

namespace tessera::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor Bytes(std::vector<int64_t> shape) {
  Tensor tensor{v1::DATA_TYPE_FP32, std::move(shape), {}};
  tensor.bytes.resize(static_cast<size_t>(*ByteSize(tensor.dtype, tensor.shape)));
  for (size_t i = 0; i < tensor.bytes.size(); ++i) tensor.bytes[i] = static_cast<char>(i);
  return tensor;
}

Tensor Fp32(const std::vector<float>& values, std::vector<int64_t> shape) {
  return {v1::DATA_TYPE_FP32, std::move(shape),
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float))};
}

TEST(QuantizeFp8Test, ScalesEachHeadInEveryLayout) {
  // (batch 1, 2, 2, dim 1): heads are the second or the third dimension.
  const Tensor tensor = Fp32({448, 1, 224, 2}, {1, 2, 2, 1});
  const auto bshd = QuantizeFp8(tensor, v1::LAYOUT_BSHD);
  ASSERT_TRUE(bshd.ok()) << bshd.status();
  EXPECT_THAT(bshd->scales, ElementsAre(1.0f, 2 / 448.0f));
  EXPECT_EQ(bshd->tensor.bytes, "\x7e\x76\x76\x7e");
  EXPECT_EQ(bshd->tensor.shape, tensor.shape);
  const auto bhsd = QuantizeFp8(tensor, v1::LAYOUT_BHSD);
  ASSERT_TRUE(bhsd.ok()) << bhsd.status();
  EXPECT_THAT(bhsd->scales, ElementsAre(1.0f, 0.5f));
  EXPECT_EQ(bhsd->tensor.bytes, "\x7e\x38\x7e\x48");
}

TEST(QuantizeFp8Test, KeepsNanAndTakesZerosAndInfinities) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto fp8 =
      QuantizeFp8(Fp32({0, std::nanf(""), 1e-45f, -kInfinity, 0, 896, 0, 448}, {2, 4, 1}), v1::LAYOUT_PACKED);
  ASSERT_TRUE(fp8.ok()) << fp8.status();
  EXPECT_THAT(fp8->scales, ElementsAre(1.0f, 2.0f, std::numeric_limits<float>::min(), 1.0f));
  EXPECT_EQ(fp8->tensor.bytes, std::string("\x00\x7f\x00\xfe\x00\x7e\x00\x7e", 8));
  const auto empty = QuantizeFp8(Fp32({}, {0, 4, 1}), v1::LAYOUT_PACKED);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_TRUE(empty->scales.empty());
}

TEST(QuantizeFp8Test, RefusesOtherTensors) {
  EXPECT_THAT(std::string(QuantizeFp8(Fp32({1, 2}, {1, 2, 1}), v1::LAYOUT_BSHD).status().message()),
              HasSubstr("expected an fp32 tensor of rank 4, got fp32 [1, 2, 1]"));
  EXPECT_FALSE(QuantizeFp8({v1::DATA_TYPE_FP16, {1, 1, 1}, "ab"}, v1::LAYOUT_PACKED).ok());
}

class ClientTest : public testing::Test {
 protected:
  void SetUp() override { client_ = Connect({}); }

  std::unique_ptr<Client> Connect(const ClientOptions& options) {
    auto client = Client::Connect(server_.address(), options);
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  AttendCall Call(const std::string& backend = "") {
    AttendCall call;
    call.id = "one";
    call.backend = backend;
    call.q = tensor_.view();
    call.k = tensor_.view();
    call.v = tensor_.view();
    return call;
  }

  FakeServer server_;
  Tensor tensor_ = Bytes({4, 2, 8});
  std::unique_ptr<Client> client_;
};

std::string Joined(const std::vector<grpc::Slice>& slices) {
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

TEST(EncodeMessageTest, RefersToTheTensorsOfAnOwner) {
  for (const bool owned : {true, false}) {
    auto tensors = std::make_shared<const std::vector<Tensor>>(3, Bytes({4, 2, 8}));
    const std::weak_ptr<const std::vector<Tensor>> watch = tensors;
    const char* const memory = (*tensors)[1].bytes.data();
    AttendCall call;
    call.q = (*tensors)[0].view();
    call.k = (*tensors)[1].view();
    call.v = (*tensors)[2].view();
    call.masks = {(*tensors)[0].view()};
    if (owned) call.owner = tensors;
    auto message = EncodeMessage(call);
    ASSERT_TRUE(message.ok()) << message.status();
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(message->Dump(&slices).ok());
    EXPECT_EQ(Joined(slices), EncodeRequest(call)->SerializeAsString());
    const bool refers = std::any_of(slices.begin(), slices.end(), [memory](const grpc::Slice& slice) {
      return slice.begin() == reinterpret_cast<const uint8_t*>(memory);
    });
    EXPECT_EQ(refers, owned);

    call = {};
    tensors.reset();
    EXPECT_EQ(watch.expired(), !owned) << "the message has its share";
    slices.clear();
    message->Clear();
    EXPECT_TRUE(watch.expired());
  }
}

TEST_F(ClientTest, AttendCarriesTensorsBothWays) {
  AttendCall call = Call();
  call.want_lse = true;
  call.options.set_causal(true);
  const auto result = client_->Attend(call);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->id, "one");
  EXPECT_EQ(result->output.shape, tensor_.shape);
  EXPECT_EQ(result->output.bytes, tensor_.bytes);
  ASSERT_TRUE(result->lse);
  EXPECT_EQ(result->ledger.memory().workspace_peak(), 1 << 20);
  EXPECT_TRUE(server_.attention.last_request.options().causal());
}

TEST_F(ClientTest, AttendCarriesMoreThanGrpcsDefaultLimit) {
  tensor_ = Bytes({1 << 14, 4, 32});  // 8 MiB each
  const auto result = client_->Attend(Call());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output.bytes, tensor_.bytes);
}

TEST_F(ClientTest, AttendRefusesBytesThatAreNotTheShapes) {
  tensor_.bytes.pop_back();
  const absl::Status status = client_->Attend(Call()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("q: fp32 [4, 2, 8] takes 256 bytes, got 255"));
}

TEST_F(ClientTest, AttendKeepsWhatTheServerAttachedToAnError) {
  const absl::Status status = client_->Attend(Call("refuse")).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  const auto info = GetErrorInfo(status);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->reason, "HEAD_COUNT_NOT_DIVISIBLE");
  EXPECT_EQ(info->domain, "tessera");
  EXPECT_EQ(info->metadata.at("actual"), "3");
  EXPECT_EQ(GetRetryDelay(status), std::chrono::milliseconds(250));
}

TEST_F(ClientTest, AttendReportsAReplyThatContradictsItself) {
  const absl::Status status = client_->Attend(Call("liar")).status();
  EXPECT_TRUE(absl::IsInternal(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("takes 256 bytes, got 0"));
}

TEST_F(ClientTest, AttendEndsAtItsDeadline) {
  const auto client = Connect({.call_timeout = std::chrono::milliseconds(50)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Attend(Call("slow")).status()));
}

TEST_F(ClientTest, StreamMatchesRepliesByIdAndSurvivesARefusal) {
  const auto stream = client_->OpenStream();
  for (const char* id : {"a", "b", "c"}) {
    AttendCall call = Call(id == std::string("b") ? "refuse" : "");
    call.id = id;
    ASSERT_TRUE(stream->Send(call).ok());
  }
  stream->CloseSending();
  std::set<std::string> succeeded, refused;
  while (true) {
    const auto reply = stream->Receive();
    if (!reply.ok()) {
      EXPECT_TRUE(absl::IsOutOfRange(reply.status()));
      break;
    }
    (reply->result.ok() ? succeeded : refused).insert(reply->id);
    if (!reply->result.ok()) {
      EXPECT_EQ(GetErrorInfo(reply->result.status())->reason, "HEAD_COUNT_NOT_DIVISIBLE");
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(succeeded, testing::ElementsAre("a", "c"));
  EXPECT_THAT(refused, testing::ElementsAre("b"));
  EXPECT_TRUE(absl::IsFailedPrecondition(stream->Send(Call())));
}

TEST_F(ClientTest, StreamMayBeDroppedWithRequestsInFlight) {
  const auto stream = client_->OpenStream();
  ASSERT_TRUE(stream->Send(Call()).ok());
}

TEST_F(ClientTest, ExplainSendsShapesOnly) {
  const auto reply = client_->Explain(Call());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->workspace_bytes(), 4096);
}

TEST_F(ClientTest, HealthAnswersAndWatches) {
  EXPECT_EQ(*client_->Health(), grpc::health::v1::HealthCheckResponse::SERVING);
  EXPECT_TRUE(absl::IsNotFound(client_->Health("unknown").status()));
  std::vector<HealthStatus> seen;
  EXPECT_TRUE(client_
                  ->WatchHealth("",
                                [&](HealthStatus status) {
                                  seen.push_back(status);
                                  return seen.size() < 2;
                                })
                  .ok());
  EXPECT_THAT(seen, testing::ElementsAre(grpc::health::v1::HealthCheckResponse::SERVING,
                                         grpc::health::v1::HealthCheckResponse::NOT_SERVING));
}

TEST(ClientConnectTest, RefusesWhatIsNoAddress) {
  for (const char* target : {"", "localhost", "localhost:", "localhost:http", "localhost:0",
                             "localhost:65536", ":80", "unix:", "::1", "[::1]", "a:b:1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Client::Connect(target).status())) << target;
  }
}

TEST(ClientConnectTest, SaysWhenNobodyAnswers) {
  const absl::Status status = Client::Connect("unix:/nonexistent/tessera.sock").status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no server answers at unix:/nonexistent"));
}

TEST(ErrorTest, KeepsCodesAndDropsDetailsThatDoNotParse) {
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  const absl::Status status = FromGrpcStatus({grpc::StatusCode::NOT_FOUND, "no", "\xff\xff rubbish"});
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_FALSE(GetErrorInfo(status));
  EXPECT_FALSE(GetRetryDelay(status));
  google::rpc::Status odd;
  odd.set_code(-7);
  EXPECT_EQ(FromRpcStatus(odd).code(), absl::StatusCode::kUnknown);
}

TEST(ErrorTest, BoundsRetryDelays) {
  google::rpc::Status rpc_status = HeadCountError();
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(INT64_MAX);
  rpc_status.clear_details();
  rpc_status.add_details()->PackFrom(retry);
  EXPECT_EQ(GetRetryDelay(FromRpcStatus(rpc_status)), std::chrono::hours(24));
}

TEST(TensorTest, NumElementsIsOverflowSafe) {
  EXPECT_EQ(NumElements(std::vector<int64_t>{}), 1);
  EXPECT_EQ(NumElements(std::vector<int64_t>{1, 0, INT64_MAX}), 0);
  EXPECT_EQ(NumElements(std::vector<int64_t>{INT64_MAX, 0, INT64_MAX}), std::nullopt);
  EXPECT_EQ(NumElements(std::vector<int64_t>{int64_t{1} << 32, int64_t{1} << 31}), std::nullopt);
  EXPECT_EQ(NumElements(std::vector<int64_t>{0, -1}), std::nullopt);
  EXPECT_EQ(ByteSize(v1::DATA_TYPE_FP32, std::vector<int64_t>{int64_t{1} << 61}), std::nullopt);
}

}  // namespace
}  // namespace tessera::client
