// Requests to a Server over real sockets: Attend, AttendStream, Explain, GetServerInfo.
#include "server/server.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/server_fixture.h"

namespace tessera {
namespace {

using testing::ExpectError;
using testing::FloatsOf;
using testing::FromGrpcStatus;
using testing::FromRpcStatus;
using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::ServerTest;

constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

// ---- Attend ----

TEST_F(ServerTest, AnswersARequestWithOutputsAndLedger) {
  Start();
  const v1::AttendRequest request = MakePackedRequest();
  v1::AttendResponse response;
  const absl::Status status = Attend(request, &response);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(response.id(), "test");
  ASSERT_EQ(response.outputs_size(), 1);
  const v1::Tensor& o = response.outputs(0).tensor();
  EXPECT_EQ(o.dtype(), v1::DATA_TYPE_FP32);
  EXPECT_EQ(std::vector<int64_t>(o.shape().begin(), o.shape().end()), (std::vector<int64_t>{5, 4, 6}));
  EXPECT_EQ(FloatsOf(response.raw(static_cast<int>(o.raw_index()))), Expected(request));

  const v1::Ledger& ledger = response.ledger();
  EXPECT_EQ(ledger.choice().backend(), "reference");
  EXPECT_EQ(ledger.choice().batch_requests(), 1);
  EXPECT_EQ(ledger.memory().input(), (5 * 4 * 8 + 9 * 2 * 8 + 9 * 2 * 6) * 4);
  EXPECT_EQ(ledger.memory().output(), 5 * 4 * 6 * 4);
  EXPECT_EQ(ledger.memory().host_copies_in(), 1);
  EXPECT_EQ(ledger.memory().host_copies_in_bytes(), ledger.memory().input());
  EXPECT_EQ(ledger.memory().host_copies_out(), 0);
  EXPECT_GT(ledger.memory().workspace_peak(), 0);
  EXPECT_GT(ledger.time().total(), ledger.time().compute());
  EXPECT_GT(ledger.flops(), 0);
}

TEST_F(ServerTest, AnswersManyThreadsAtOnce) {
  Start();
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 8; ++t) {
    threads.emplace_back([this, t] {
      for (uint32_t i = 0; i < 10; ++i) {
        const v1::AttendRequest request = MakePackedRequest(100 * t + i);
        v1::AttendResponse response;
        ASSERT_TRUE(Attend(request, &response).ok());
        EXPECT_EQ(FloatsOf(response.raw(0)), Expected(request));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ServerTest, AnswersEmptyBatches) {
  Start();
  v1::AttendResponse response;
  ASSERT_TRUE(Attend(MakeRequest(v1::LAYOUT_PACKED, {0, 4, 8}, {0, 2, 8}, {0, 2, 6}), &response).ok());
  ASSERT_EQ(response.raw_size(), 1);
  EXPECT_EQ(response.raw(0).size(), 0u);
}

TEST_F(ServerTest, RefusesBadMessagesAndGoesOn) {
  options_.limits.max_message_bytes = 4096;
  Start();
  ExpectError(AttendRaw("\xFF\xFF\xFF"), kInvalid, "MALFORMED_MESSAGE");
  ExpectError(AttendRaw(""), kInvalid, "TENSOR_MISSING");
  const std::string good = MakePackedRequest().SerializeAsString();
  ExpectError(AttendRaw(good.substr(0, good.size() - 7)), kInvalid, "MALFORMED_MESSAGE");
  const absl::Status large = AttendRaw(std::string(5000, '\0'));
  ExpectError(large, kExhausted, "MESSAGE_TOO_LARGE");
  EXPECT_EQ(testing::ErrorMetadata(large, "actual"), "5000");
  EXPECT_TRUE(Attend(MakePackedRequest()).ok());
}

TEST_F(ServerTest, EnforcesLimitsBeforeItAllocates) {
  options_.limits.max_batch_tokens = 100;
  options_.limits.max_workspace_bytes = 1000;
  options_.limits.max_message_bytes = 64 << 10;
  Start();
  ExpectError(Attend(MakeRequest(v1::LAYOUT_PACKED, {1, 1, 2}, {100, 1, 2}, {100, 1, 2})), kExhausted,
              "BATCH_TOKENS_LIMIT");
  // 8 bytes of q repeated over 50 tokens of 1024 heads: a reply of 400 KiB for a few bytes sent.
  v1::AttendRequest amplified = MakeRequest(v1::LAYOUT_PACKED, {50, 1024, 2}, {1, 1, 2}, {1, 1, 2});
  amplified.mutable_raw(0)->resize(2 * 4);
  for (const int64_t stride : {0, 0, 1}) amplified.mutable_q()->add_strides(stride);
  ExpectError(Attend(amplified), kExhausted, "OUTPUT_LIMIT");
  control_.SetWorkspaceBytes(1001);
  const absl::Status workspace = Attend(MakePackedRequest());
  ExpectError(workspace, kExhausted, "WORKSPACE_LIMIT");
  EXPECT_EQ(testing::ErrorMetadata(workspace, "backend"), "reference");
  control_.SetWorkspaceBytes(1000);
  EXPECT_TRUE(Attend(MakePackedRequest()).ok());
}

TEST_F(ServerTest, NamesUnknownAndUnavailableBackends) {
  Start();
  v1::AttendRequest request = MakePackedRequest();
  request.set_backend("nonsense");
  ExpectError(Attend(request), absl::StatusCode::kNotFound, "BACKEND_NOT_FOUND");
  request.set_backend(std::string(100000, 'x'));
  EXPECT_EQ(Attend(request).code(), absl::StatusCode::kNotFound)
      << "a long name still fits into the trailers";
  request.set_backend("absent");
  EXPECT_EQ(Attend(request).code(), kUnavailable);
}

TEST_F(ServerTest, SaysWhichDTypesABackendTakes) {
  auto registry = MakeRegistry();
  ASSERT_TRUE(registry
                  ->Add(std::make_unique<testing::FakeBackend>(testing::AbleInfo("wide", 0),
                                                               registry->Find("reference").value()->device()))
                  .ok());
  Start(std::move(registry));
  v1::AttendRequest request = MakePackedRequest();
  for (v1::Tensor* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(v1::DATA_TYPE_FP8_E4M3);
    std::string& raw = *request.mutable_raw(static_cast<int>(tensor->raw_index()));
    raw.resize(raw.size() / sizeof(float));
  }
  request.add_outputs()->set_dtype(v1::DATA_TYPE_FP32);
  EXPECT_TRUE(Attend(request).ok()) << Attend(request);
  request.set_backend("wide");
  const absl::Status refused = Attend(request);
  ExpectError(refused, absl::StatusCode::kUnimplemented, "DTYPE_UNSUPPORTED");
  EXPECT_EQ(testing::ErrorMetadata(refused, "backend"), "wide");
  EXPECT_EQ(testing::ErrorMetadata(refused, "field"), "input_dtype");
  EXPECT_EQ(testing::ErrorMetadata(refused, "expected"), "fp32, bf16");
  EXPECT_EQ(testing::ErrorMetadata(refused, "actual"), "fp8_e4m3");
}

TEST_F(ServerTest, RefusesTooManyRequestsWithARetryHint) {
  options_.limits.max_concurrent_requests = 1;
  Start();
  control_.CloseGate();
  auto first = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  const absl::Status refused = Attend(MakePackedRequest());
  ExpectError(refused, kExhausted, "TOO_MANY_REQUESTS");
  EXPECT_TRUE(GetErrorDetail(refused)->retry_after.has_value());
  control_.OpenGate();
  EXPECT_TRUE(first.get().ok());
}

TEST_F(ServerTest, DropsRequestsWhoseDeadlinePasses) {
  Start();
  control_.CloseGate();
  auto first = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  v1::AttendResponse response;
  EXPECT_EQ(Attend(MakePackedRequest(), &response, std::chrono::milliseconds(50)).code(),
            absl::StatusCode::kDeadlineExceeded);
  control_.OpenGate();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(Attend(MakePackedRequest()).ok());
  EXPECT_EQ(control_.launches().size(), 2u) << "the late one never ran";
}

TEST_F(ServerTest, RefusesCompressedMessages) {
  Start();
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  v1::AttendResponse response;
  const v1::AttendRequest request = MakeRequest(v1::LAYOUT_PACKED, {5, 4, 8}, {9, 2, 8}, {9, 2, 8});
  EXPECT_EQ(stub_->Attend(&context, request, &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

// ---- AttendStream ----

using Stream = grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>;

v1::AttendRequest Named(v1::AttendRequest request, const std::string& id) {
  request.set_id(id);
  return request;
}

TEST_F(ServerTest, AnswersEveryRequestOfAStream) {
  options_.limits.max_stream_requests = 3;  // fewer than are sent, so that reading has to stop and go on
  Start();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  std::map<std::string, v1::AttendRequest> requests;
  for (uint32_t i = 0; i < 40; ++i) {
    const std::string id = "r" + std::to_string(i);
    requests[id] = Named(MakePackedRequest(i), id);
  }
  std::thread writer([&stream, sent = requests] {
    for (const auto& [id, request] : sent) ASSERT_TRUE(stream->Write(request));
    stream->WritesDone();
  });
  v1::AttendResponse response;
  while (stream->Read(&response)) {
    ASSERT_EQ(requests.count(response.id()), 1u) << response.id();
    EXPECT_FALSE(response.has_status());
    EXPECT_EQ(FloatsOf(response.raw(0)), Expected(requests[response.id()]));
    requests.erase(response.id());
  }
  writer.join();
  EXPECT_TRUE(requests.empty());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, AnswersAFailureOnAStreamAndGoesOn) {
  Start();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  v1::AttendRequest bad = Named(MakePackedRequest(), "bad");
  bad.mutable_raw(0)->pop_back();
  stream->Write(bad);
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "bad");
  ExpectError(FromRpcStatus(response.status()), kInvalid, "WRONG_BYTE_COUNT");
  EXPECT_EQ(response.outputs_size(), 0);
  stream->Write(Named(MakePackedRequest(), "good"));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "good");
  EXPECT_FALSE(response.has_status());
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, AnswersOutOfOrder) {
  Start();
  control_.CloseGate();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  stream->Write(Named(MakePackedRequest(), "slow"));
  control_.AwaitLaunchAtGate();
  v1::AttendRequest bad = Named(MakePackedRequest(), "quick");
  bad.clear_q();
  stream->Write(bad);
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "quick");
  control_.OpenGate();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "slow");
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, NamesTheRequestThatAFullServerRefuses) {
  options_.limits.max_concurrent_requests = 1;
  Start();
  control_.CloseGate();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  stream->Write(Named(MakePackedRequest(), "first"));
  control_.AwaitLaunchAtGate();
  stream->Write(Named(MakePackedRequest(), "second"));
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.id(), "second");
  ExpectError(FromRpcStatus(response.status()), kExhausted, "TOO_MANY_REQUESTS");
  control_.OpenGate();
  stream->WritesDone();
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, SurvivesStreamsThatAreCancelledInEveryState) {
  Start();
  for (int round = 0; round < 20; ++round) {
    if (round % 2 == 0) control_.CloseGate();
    grpc::ClientContext context;
    const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
    for (int i = 0; i < round % 7; ++i) stream->Write(MakePackedRequest());
    if (round % 3 == 0) stream->WritesDone();
    if (round % 2 == 0 && round % 7 > 0) control_.AwaitLaunchAtGate();
    context.TryCancel();
    control_.OpenGate();
    const grpc::Status status = stream->Finish();
    EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::CANCELLED) << status.error_message();
  }
  EXPECT_TRUE(Attend(MakePackedRequest()).ok());
  EXPECT_TRUE(server_->Drain()) << "no ticket was lost";
}

TEST_F(ServerTest, SurvivesAClientThatVanishes) {
  Start();
  control_.CloseGate();
  auto context = std::make_unique<grpc::ClientContext>();
  auto stream = stub_->AttendStream(context.get());
  for (int i = 0; i < 5; ++i) stream->Write(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  context->TryCancel();
  stream->Finish();
  stream.reset();
  stub_.reset();
  channel_.reset();
  control_.OpenGate();
  EXPECT_TRUE(server_->Drain());
}

// ---- Explain, GetServerInfo, health, reflection ----

TEST_F(ServerTest, ExplainsWithoutData) {
  Start();
  v1::ExplainRequest request;
  *request.mutable_request() = MakePackedRequest();
  request.mutable_request()->clear_raw();
  request.mutable_request()->mutable_options()->set_causal(true);
  v1::ExplainResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Explain(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.choice().kernel(), "reference_row");
  EXPECT_EQ(response.workspace_bytes(), 256);
  EXPECT_EQ(response.traffic().hbm_read(), 9);
  EXPECT_EQ(response.traffic().hbm_write(), 256);
  EXPECT_EQ(response.output_bytes(), 5 * 4 * 6 * 4);
  EXPECT_EQ(std::vector<std::string>(response.features().begin(), response.features().end()),
            (std::vector<std::string>{"gqa", "unequal_head_dim", "causal"}));
  ASSERT_EQ(response.refusals_size(), 1);
  EXPECT_EQ(response.refusals(0).backend(), "absent");
  EXPECT_TRUE(control_.launches().empty());
}

TEST_F(ServerTest, ExplainsWhichLimitAttendWouldHit) {
  options_.limits.max_batch_tokens = 3;
  Start();
  v1::ExplainRequest request;
  *request.mutable_request() = MakePackedRequest();
  request.mutable_request()->clear_raw();
  v1::ExplainResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub_->Explain(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.choice().backend(), "reference");
  ASSERT_EQ(response.refusals_size(), 2);
  EXPECT_EQ(response.refusals(0).backend(), "reference");
  EXPECT_NE(response.refusals(0).reason().find("--max-batch-tokens"), std::string::npos)
      << response.refusals(0).reason();
}

TEST_F(ServerTest, RefusesToExplainABadRequest) {
  Start();
  v1::ExplainResponse response;
  grpc::ClientContext first, second;
  ExpectError(FromGrpcStatus(stub_->Explain(&first, v1::ExplainRequest(), &response)), kInvalid,
              "REQUEST_MISSING");
  v1::ExplainRequest request;
  *request.mutable_request() = MakePackedRequest();
  request.mutable_request()->mutable_q()->set_shape(1, 3);
  ExpectError(FromGrpcStatus(stub_->Explain(&second, request, &response)), kInvalid,
              "HEAD_COUNT_NOT_DIVISIBLE");
}

TEST_F(ServerTest, DescribesItself) {
  Start();
  v1::GetServerInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetServerInfo(&context, v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.version(), "0.1.0");
  EXPECT_NE(info.commit(), "");
  ASSERT_EQ(info.backends_size(), 2);
  EXPECT_TRUE(info.backends(0).usable());
  EXPECT_EQ(info.backends(0).device(), "fake:0");
  EXPECT_FALSE(info.backends(1).usable());
  EXPECT_EQ(info.backends(1).unusable_reason(), "no such hardware");
  ASSERT_EQ(info.devices_size(), 1);
  EXPECT_EQ(info.limits().max_concurrent_requests(), options_.limits.max_concurrent_requests);
  EXPECT_FALSE(info.draining());
}

}  // namespace
}  // namespace tessera
