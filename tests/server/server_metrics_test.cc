// The metrics of a server against what its clients saw.
#include <chrono>
#include <future>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/backend/status_expectations.h"
#include "tests/server/scrape.h"
#include "tests/server/server_fixture.h"

namespace tessera {
namespace {

using testing::MakePackedRequest;
using testing::MakeRequest;
using testing::Scrape;
using testing::Series;
using testing::ServerTest;
using testing::Total;

using Stream = grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>;

class ServerMetricsTest : public ServerTest {
 protected:
  ServerMetricsTest() { options_.metrics_listen = "127.0.0.1:0"; }

  // The first scrape in which `name` has reached `expected`: a call ends for the client before it does for
  // the server. The last one after 20 s.
  Series Await(const std::string& name, double expected, std::initializer_list<const char*> parts = {}) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (true) {
      Series series = Scrape(server_->metrics_address());
      if (Total(series, name, parts) >= expected || std::chrono::steady_clock::now() > deadline)
        return series;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  // A call holds its place until after its reply has left.
  void AwaitIdle() {
    while (Total(Scrape(server_->metrics_address()), "tessera_requests_in_flight") > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void Saw(const std::string& method, absl::StatusCode code) {
    ++seen_[{method, absl::StatusCodeToString(code)}];
  }

  // tessera_requests_total has exactly what the clients saw.
  void ExpectAgreement() {
    double all = 0;
    for (const auto& [key, count] : seen_) all += count;
    const Series series = Await("tessera_requests_total", all);
    EXPECT_EQ(Total(series, "tessera_requests_total"), all);
    double rejected = 0;
    for (const auto& [key, count] : seen_) {
      const std::string method = "method=\"" + key.first + "\"", code = "code=\"" + key.second + "\"";
      EXPECT_EQ(Total(series, "tessera_requests_total", {method.c_str(), code.c_str()}), count)
          << method << " " << code;
      if (key.second != "OK" && key.second != "CANCELLED" && key.second != "DEADLINE_EXCEEDED")
        rejected += count;
    }
    EXPECT_EQ(Total(series, "tessera_rejections_total"), rejected);
  }

  std::map<std::pair<std::string, std::string>, int> seen_;
};

TEST_F(ServerMetricsTest, AreOffUnlessAskedFor) {
  options_.metrics_listen.clear();
  Start();
  EXPECT_EQ(server_->metrics_address(), "");
}

TEST_F(ServerMetricsTest, ListenOnlyWhereTheyMay) {
  const auto refusal = [&](const char* address) {
    options_.metrics_listen = address;
    return Server::Start(options_, MakeRegistry()).status();
  };
  testing::ExpectError(refusal("0.0.0.0:0"), absl::StatusCode::kInvalidArgument, "LISTEN_INSECURE");
  testing::ExpectError(refusal("unix:/tmp/metrics.sock"), absl::StatusCode::kInvalidArgument,
                       "LISTEN_ADDRESS_INVALID");
  testing::ExpectError(refusal("nonsense"), absl::StatusCode::kInvalidArgument, "LISTEN_ADDRESS_INVALID");
  options_.metrics_listen = "127.0.0.1:0";
  Start();
  testing::ExpectError(refusal(server_->metrics_address().c_str()), absl::StatusCode::kUnavailable,
                       "LISTEN_FAILED");
  options_.insecure = true;
  EXPECT_TRUE(refusal("0.0.0.0:0").ok());
}

TEST_F(ServerMetricsTest, ServeNothingButMetrics) {
  Start();
  EXPECT_NE(testing::HttpGet(server_->metrics_address(), "/metrics").find("200 OK"), std::string::npos);
  EXPECT_NE(testing::HttpGet(server_->metrics_address(), "/").find("404"), std::string::npos);
  EXPECT_NE(testing::HttpGet(server_->metrics_address(), "/../../etc/passwd").find("HTTP/1.1 4"),
            std::string::npos);
}

TEST_F(ServerMetricsTest, TellWhatRequestsCost) {
  Start();
  v1::AttendResponse response;
  ASSERT_TRUE(Attend(MakePackedRequest(), &response).ok());
  const Series series = Await("tessera_requests_total", 1);
  const v1::Ledger& ledger = response.ledger();
  const char* const backend = "backend=\"reference\"";
  EXPECT_EQ(Total(series, "tessera_flops_total", {backend}), static_cast<double>(ledger.flops()));
  EXPECT_EQ(Total(series, "tessera_workspace_peak_bytes", {backend}),
            static_cast<double>(ledger.memory().workspace_peak()));
  EXPECT_EQ(Total(series, "tessera_payload_bytes_total", {"\"in\""}),
            static_cast<double>(ledger.memory().input()));
  EXPECT_EQ(Total(series, "tessera_payload_bytes_total", {"\"out\""}),
            static_cast<double>(ledger.memory().output()));
  EXPECT_EQ(Total(series, "tessera_copied_bytes_total", {"path=\"host\"", "\"in\""}),
            static_cast<double>(ledger.memory().host_copies_in_bytes()));
  EXPECT_NEAR(Total(series, "tessera_compute_seconds_total"), ledger.time().compute() * 1e-6, 1e-12);
  EXPECT_NEAR(Total(series, "tessera_request_duration_seconds_sum", {backend, "phase=\"total\""}),
              ledger.time().total() * 1e-6, 1e-12);
  EXPECT_EQ(Total(series, "tessera_request_duration_seconds_count", {"phase=\"queue\""}), 1);
  EXPECT_EQ(Total(series, "tessera_batch_sequences_sum"), 2);
  EXPECT_EQ(Total(series, "tessera_build_info"), 1);
}

TEST_F(ServerMetricsTest, CountLaunchesOfSeveralRequestsOnce) {
  Start();
  control_.CloseGate();
  auto first = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  std::vector<std::future<absl::Status>> rest;
  for (uint32_t i = 0; i < 5; ++i) rest.push_back(AttendAsync(MakePackedRequest(i)));
  Series busy = Await("tessera_queue_depth", 5);
  EXPECT_EQ(Total(busy, "tessera_queue_depth"), 5);
  EXPECT_EQ(Total(busy, "tessera_requests_in_flight"), 6);
  control_.OpenGate();
  EXPECT_TRUE(first.get().ok());
  for (auto& each : rest) EXPECT_TRUE(each.get().ok());
  const Series series = Await("tessera_requests_total", 6);
  EXPECT_EQ(Total(series, "tessera_batch_requests_count"), static_cast<double>(control_.launches().size()));
  EXPECT_EQ(Total(series, "tessera_batch_requests_sum"), 6);
  AwaitIdle();
}

TEST_F(ServerMetricsTest, AgreeWithUnaryClients) {
  options_.limits.max_concurrent_requests = 3;
  options_.limits.max_batch_tokens = 100;
  Start();
  const auto call = [&](const v1::AttendRequest& request) {
    Saw("Attend", Attend(request).code());
    AwaitIdle();
  };
  for (uint32_t i = 0; i < 4; ++i) call(MakePackedRequest(i));
  Saw("Attend", AttendRaw("\xFF\xFF").code());
  AwaitIdle();
  call(MakeRequest(v1::LAYOUT_PACKED, {1, 1, 2}, {100, 1, 2}, {100, 1, 2}));
  v1::AttendRequest elsewhere = MakePackedRequest();
  elsewhere.set_backend("absent");
  call(elsewhere);

  // One at the gate, one cancelled and one late while they wait, one too many.
  control_.CloseGate();
  auto running = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  grpc::ClientContext cancelled_context;
  v1::AttendResponse ignored;
  std::thread cancelled([&] {
    Saw("Attend",
        testing::FromGrpcStatus(stub_->Attend(&cancelled_context, MakePackedRequest(), &ignored)).code());
  });
  Await("tessera_queue_depth", 1);
  absl::Status late;
  std::thread waits([&] {
    v1::AttendResponse response;
    late = Attend(MakePackedRequest(), &response, std::chrono::milliseconds(1500));
  });
  Await("tessera_queue_depth", 2);
  const absl::Status too_many = Attend(MakePackedRequest());
  cancelled_context.TryCancel();
  cancelled.join();
  waits.join();
  // The server hears of it a little later; a reply that leaves before would count as one that arrived.
  Await("tessera_requests_total", 1, {"CANCELLED"});
  Await("tessera_requests_total", 1, {"DEADLINE_EXCEEDED"});
  Saw("Attend", too_many.code());
  Saw("Attend", late.code());
  control_.OpenGate();
  Saw("Attend", running.get().code());
  EXPECT_EQ((seen_[{"Attend", "CANCELLED"}]), 1);
  EXPECT_EQ((seen_[{"Attend", "DEADLINE_EXCEEDED"}]), 1);
  EXPECT_EQ((seen_[{"Attend", "RESOURCE_EXHAUSTED"}]), 2);
  ExpectAgreement();
}

TEST_F(ServerMetricsTest, AgreeWithManyClientsAtOnce) {
  Start();
  constexpr int kThreads = 4, kRequests = 24;
  std::vector<std::vector<absl::StatusCode>> codes(kThreads);
  std::vector<std::thread> threads;
  for (auto& own : codes) {
    threads.emplace_back([this, &own] {
      for (uint32_t i = 0; i < kRequests; ++i) {
        v1::AttendRequest request = MakePackedRequest(i);
        if (i % 4 == 1) request.clear_v();
        if (i % 4 == 2) request.set_backend("nowhere");
        own.push_back(Attend(request).code());
        if (i % 8 == 0) Scrape(server_->metrics_address());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& own : codes) {
    for (const absl::StatusCode code : own) Saw("Attend", code);
  }
  EXPECT_EQ((seen_[{"Attend", "OK"}]), kThreads * kRequests / 2);
  ExpectAgreement();
}

TEST_F(ServerMetricsTest, CountWhatTheClientSawAndNotWhatWasComputed) {
  Start();
  control_.CloseGate();
  std::future<absl::Status> calls[2];
  for (auto& call : calls) {
    call = std::async(std::launch::async, [this] {
      v1::AttendResponse response;
      return Attend(MakePackedRequest(), &response, std::chrono::seconds(1));
    });
    control_.AwaitLaunchAtGate();  // the first runs: nothing can stop it
  }
  for (auto& call : calls) Saw("Attend", call.get().code());
  EXPECT_EQ((seen_[{"Attend", "DEADLINE_EXCEEDED"}]), 2);
  Await("tessera_requests_total", 1,
        {"DEADLINE_EXCEEDED"});  // the server has heard of the second, which waits
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // and so, by now, of the first
  control_.OpenGate();
  ExpectAgreement();
  EXPECT_GT(Total(Scrape(server_->metrics_address()), "tessera_flops_total"), 0)
      << "the work was done all the same";
}

TEST_F(ServerMetricsTest, AgreeWithStreams) {
  options_.limits.max_concurrent_requests = 2;
  Start();
  {
    grpc::ClientContext context;
    const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
    v1::AttendRequest bad = MakePackedRequest();
    bad.clear_q();
    v1::AttendResponse response;
    for (const v1::AttendRequest& request : {MakePackedRequest(), bad, MakePackedRequest()}) {
      ASSERT_TRUE(stream->Write(request));
      response.Clear();
      ASSERT_TRUE(stream->Read(&response));
      Saw("AttendStream", static_cast<absl::StatusCode>(response.status().code()));
    }
    AwaitIdle();
    // One at the gate, one that waits, a third too many.
    control_.CloseGate();
    ASSERT_TRUE(stream->Write(MakePackedRequest()));
    control_.AwaitLaunchAtGate();
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(stream->Write(MakePackedRequest()));
    ASSERT_TRUE(stream->Read(&response));
    Saw("AttendStream", static_cast<absl::StatusCode>(response.status().code()));
    EXPECT_EQ((seen_[{"AttendStream", "RESOURCE_EXHAUSTED"}]), 1);
    EXPECT_EQ(Total(Await("tessera_open_streams", 1), "tessera_open_streams"), 1);
    context.TryCancel();
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
    for (int i = 0; i < 2; ++i) Saw("AttendStream", absl::StatusCode::kCancelled);
    Await("tessera_requests_total", 1, {"CANCELLED"});  // the server has heard of it
    control_.OpenGate();
  }
  ExpectAgreement();
  EXPECT_EQ(Total(Await("tessera_streams_total", 1), "tessera_streams_total", {"CANCELLED"}), 1);
}

TEST_F(ServerMetricsTest, CountWhatADrainTurnsAway) {
  Start();
  control_.CloseGate();
  auto running = AttendAsync(MakePackedRequest());
  control_.AwaitLaunchAtGate();
  EXPECT_EQ(Total(Scrape(server_->metrics_address()), "tessera_draining"), 0);
  server_->RequestDrain();
  Saw("Attend", Attend(MakePackedRequest()).code());
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->AttendStream(&context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  control_.OpenGate();
  Saw("Attend", running.get().code());
  ExpectAgreement();
  const Series series = Scrape(server_->metrics_address());
  EXPECT_EQ(Total(series, "tessera_draining"), 1);
  EXPECT_EQ(Total(series, "tessera_rejections_total", {"DRAINING"}), 1);
  EXPECT_EQ(Total(series, "tessera_streams_total", {"UNAVAILABLE"}), 1);
}

TEST_F(ServerMetricsTest, CountExplainAndServerInfo) {
  Start();
  grpc::ClientContext info_context, explain_context;
  v1::GetServerInfoResponse info;
  Saw("GetServerInfo", testing::FromGrpcStatus(stub_->GetServerInfo(&info_context, {}, &info)).code());
  v1::ExplainResponse explained;
  Saw("Explain", testing::FromGrpcStatus(stub_->Explain(&explain_context, {}, &explained)).code());
  EXPECT_EQ((seen_[{"Explain", "INVALID_ARGUMENT"}]), 1);
  ExpectAgreement();
}

}  // namespace
}  // namespace tessera
