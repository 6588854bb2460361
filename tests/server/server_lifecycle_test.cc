// A Server from start to end: addresses, health, drain.
#include "server/server.h"

#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/server_fixture.h"

namespace tessera {
namespace {

using testing::BackendControl;
using testing::ExpectError;
using testing::FakeDevice;
using testing::FromGrpcStatus;
using testing::MakePackedRequest;
using testing::ReferenceBackend;
using testing::ServerTest;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnavailable = absl::StatusCode::kUnavailable;

using Serving = grpc::health::v1::HealthCheckResponse;
using Stream = grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>;

TEST_F(ServerTest, ReportsHealth) {
  Start();
  EXPECT_EQ(Health(""), Serving::SERVING);
  EXPECT_EQ(Health("tessera.v1.AttentionService"), Serving::SERVING);
}

// ---- Drain ----

TEST_F(ServerTest, DrainsWhatIsInFlight) {
  Start();
  control_.CloseGate();
  auto unary = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  v1::AttendRequest bad = MakePackedRequest();
  bad.clear_q();
  stream->Write(bad);
  v1::AttendResponse response;
  ASSERT_TRUE(stream->Read(&response)) << "the stream is open";

  server_->RequestDrain();
  EXPECT_EQ(Health(""), Serving::NOT_SERVING);
  EXPECT_EQ(Health("tessera.v1.AttentionService"), Serving::NOT_SERVING);
  const absl::Status refused = Attend(MakePackedRequest());
  ExpectError(refused, kUnavailable, "DRAINING");
  EXPECT_TRUE(GetErrorDetail(refused)->retry_after.has_value());
  EXPECT_FALSE(stream->Read(&response)) << "an idle stream ends";
  ExpectError(FromGrpcStatus(stream->Finish()), kUnavailable, "DRAINING");

  control_.OpenGate();
  EXPECT_TRUE(unary.get().ok()) << "what was in flight completes";
  EXPECT_TRUE(server_->Wait());
  EXPECT_FALSE(channel_->WaitForConnected(std::chrono::system_clock::now() + std::chrono::milliseconds(100)));
}

TEST_F(ServerTest, GivesUpAfterTheDrainTimeout) {
  options_.drain_timeout = std::chrono::milliseconds(50);
  Start();
  control_.CloseGate();
  auto running = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  auto waiting = AttendAsync(MakePackedRequest());
  EXPECT_FALSE(server_->Drain());
  EXPECT_EQ(waiting.get().code(), kUnavailable);
  control_.OpenGate();
  running.wait();
}

TEST_F(ServerTest, AbortsADrain) {
  Start();
  control_.CloseGate();
  auto running = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  server_->RequestDrain();
  server_->Abort();
  EXPECT_FALSE(server_->Wait());
  control_.OpenGate();
  running.wait();
}

TEST_F(ServerTest, EndsWithAHealthWatchOpen) {
  Start();
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  const auto watch = stub->Watch(&context, grpc::health::v1::HealthCheckRequest());
  grpc::health::v1::HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), Serving::SERVING);
  server_->RequestDrain();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), Serving::NOT_SERVING);
  EXPECT_TRUE(server_->Wait());
}

TEST_F(ServerTest, DrainsByItselfWhenADeviceIsLost) {
  BackendControl other_control;
  auto registry = std::make_unique<BackendRegistry>();
  auto& lost = static_cast<FakeDevice&>(registry->AddDevice(std::make_unique<FakeDevice>()));
  Device& other = registry->AddDevice(std::make_unique<FakeDevice>(FakeDevice::Options{.id = "fake:1"}));
  ASSERT_TRUE(registry->Add(std::make_unique<ReferenceBackend>("reference", 1, lost, control_)).ok());
  ASSERT_TRUE(registry->Add(std::make_unique<ReferenceBackend>("other", 0, other, other_control)).ok());
  Start(std::move(registry));
  EXPECT_FALSE(server_->device_lost());

  v1::AttendRequest elsewhere = MakePackedRequest();
  elsewhere.set_backend("other");
  other_control.CloseGate();
  auto running = AttendAsync(elsewhere);
  other_control.AwaitLaunchAtGate();
  control_.OnLaunch([&lost](const AttentionProblem&) {
    lost.Lose();
    return absl::InternalError("illegal address");
  });
  ExpectError(Attend(MakePackedRequest()), kUnavailable, "DEVICE_LOST");
  EXPECT_EQ(Health(""), Serving::NOT_SERVING);
  EXPECT_TRUE(server_->device_lost());
  ExpectError(Attend(elsewhere), kUnavailable, "DRAINING");

  other_control.OpenGate();
  EXPECT_TRUE(running.get().ok()) << "what runs on other devices completes";
  EXPECT_TRUE(server_->Wait());
  server_.reset();
}

// ---- Start ----

TEST_F(ServerTest, ListensOnSeveralAddresses) {
  char directory[] = "/tmp/tessera-test-XXXXXX";
  const std::string path = std::string(mkdtemp(directory)) + "/socket";
  options_.listen = {"127.0.0.1:0", "unix:" + path, "127.0.0.1:0"};
  Start();
  ASSERT_EQ(server_->addresses().size(), 3u);
  EXPECT_NE(server_->addresses()[0], server_->addresses()[2]);
  for (const std::string& address : server_->addresses()) {
    Connect(address);
    EXPECT_TRUE(Attend(MakePackedRequest()).ok()) << address;
  }
  const auto second = Server::Start({.listen = {"unix:" + path}}, MakeRegistry());
  ExpectError(second.status(), absl::StatusCode::kAlreadyExists, "LISTEN_PATH_TAKEN");
  EXPECT_TRUE(server_->Drain());
  EXPECT_NE(access(path.c_str(), F_OK), 0) << "the socket file is gone";
  rmdir(directory);
}

TEST_F(ServerTest, RefusesAPortThatIsTaken) {
  Start();
  const auto second = Server::Start({.listen = {server_->addresses()[0]}}, MakeRegistry());
  ExpectError(second.status(), kUnavailable, "LISTEN_FAILED");
}

TEST_F(ServerTest, RefusesToBeReachableWithoutBeingToldTo) {
  const auto open = Server::Start({.listen = {"0.0.0.0:0"}}, MakeRegistry());
  ExpectError(open.status(), kInvalid, "LISTEN_INSECURE");
  EXPECT_TRUE(Server::Start({.listen = {"0.0.0.0:0"}, .insecure = true}, MakeRegistry()).ok());
}

TEST_F(ServerTest, RefusesBadOptions) {
  ServerOptions options;
  options.listen = {};
  ExpectError(Server::Start(options, MakeRegistry()).status(), kInvalid, "LISTEN_MISSING");
  options = {};
  options.limits.max_concurrent_requests = 0;
  ExpectError(Server::Start(options, MakeRegistry()).status(), kInvalid, "OPTION_INVALID");
  options = {};
  options.default_backend = "nonsense";
  ExpectError(Server::Start(options, MakeRegistry()).status(), absl::StatusCode::kNotFound,
              "BACKEND_NOT_FOUND");
}

}  // namespace
}  // namespace tessera
