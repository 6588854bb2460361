// A Server in this process, over real sockets, with a backend that tests can hold.
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/request_codec.h"
#include "server/server.h"
#include "tessera/v1/attention.grpc.pb.h"
#include "tests/backend/fake_device.h"
#include "tests/server/reference_backend.h"
#include "tests/server/request_builder.h"
#include "tests/server/wire_status.h"

namespace tessera::testing {

class ServerTest : public ::testing::Test {
 protected:
  ~ServerTest() override { control_.OpenGate(); }

  std::unique_ptr<BackendRegistry> MakeRegistry() {
    auto registry = std::make_unique<BackendRegistry>();
    Device& device = registry->AddDevice(std::make_unique<FakeDevice>());
    EXPECT_TRUE(registry->Add(std::make_unique<ReferenceBackend>("reference", 1, device, control_)).ok());
    registry->AddUnavailable({"absent", absl::UnavailableError("no such hardware")});
    return registry;
  }

  void Start() { Start(MakeRegistry()); }

  void Start(std::unique_ptr<BackendRegistry> registry) {
    auto server = Server::Start(options_, std::move(registry));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    Connect(server_->addresses().front());
  }

  void Connect(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
    stub_ = v1::AttentionService::NewStub(channel_);
  }

  absl::Status Attend(const v1::AttendRequest& request, v1::AttendResponse* response,
                      std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    return FromGrpcStatus(stub_->Attend(&context, request, response));
  }

  absl::Status Attend(const v1::AttendRequest& request) {
    v1::AttendResponse response;
    return Attend(request, &response);
  }

  std::future<absl::Status> AttendAsync(const v1::AttendRequest& request) {
    return std::async(std::launch::async, [this, request] { return Attend(request); });
  }

  // Sends these very bytes to Attend.
  absl::Status AttendRaw(const std::string& bytes) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/tessera.v1.AttentionService/Attend", grpc::StubOptions(), &request, &response,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    return FromGrpcStatus(done.get_future().get());
  }

  grpc::health::v1::HealthCheckResponse::ServingStatus Health(const std::string& service) {
    const auto stub = grpc::health::v1::Health::NewStub(channel_);
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    grpc::ClientContext context;
    EXPECT_TRUE(stub->Check(&context, request, &response).ok());
    return response.status();
  }

  static std::vector<float> Expected(const v1::AttendRequest& request) {
    auto decoded = DecodeRequest(request, testing::PayloadOf(request), DataRequirement::kRequired);
    const auto inputs = BindInputs(*decoded);
    const auto buffers = BindOutputs(*decoded);
    testing::ReferenceAttention(decoded->problem);
    const auto* values = reinterpret_cast<const float*>(buffers[0].data());
    return {values, values + buffers[0].bytes() / 4};
  }

  ServerOptions options_;
  BackendControl control_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AttentionService::Stub> stub_;
  std::unique_ptr<Server> server_;
};

}  // namespace tessera::testing
