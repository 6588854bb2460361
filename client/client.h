// The C++ client of tessera.v1.AttentionService.
//
//   auto client = tessera::client::Client::Connect("127.0.0.1:50051");
//   tessera::client::AttendCall call;
//   call.q = q.view();  // (tokens, heads, dim); likewise k and v
//   call.options.set_causal(true);
//   auto result = (*client)->Attend(call);
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/attend_call.h"
#include "client/attend_stream.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/channel.h"
#include "tessera/v1/attention.grpc.pb.h"

namespace tessera::client {

struct ClientOptions {
  // How long Connect waits for the server to answer.
  std::chrono::milliseconds connect_timeout{5000};
  // Deadline of each unary call, from its start; nullopt: none.
  std::optional<std::chrono::milliseconds> call_timeout;
};

using HealthStatus = grpc::health::v1::HealthCheckResponse::ServingStatus;

// Thread-safe. Errors of calls are the server's: code, message, and details for GetErrorInfo and
// GetRetryDelay (client/error.h). Message sizes are limited by the server only, not by gRPC's 4 MB default.
class Client {
 public:
  // `target` is HOST:PORT, [IPV6]:PORT or unix:PATH. INVALID_ARGUMENT for anything else, UNAVAILABLE when
  // nobody answers there.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const std::string& target,
                                                         const ClientOptions& options = {});

  absl::StatusOr<AttendResult> Attend(const AttendCall& call) const;
  // For a caller that sends one request many times.
  absl::StatusOr<AttendResult> Attend(const v1::AttendRequest& request) const;

  // Many requests in flight on one stream. Outlives this client if need be.
  std::unique_ptr<AttendStream> OpenStream() const;

  // Needs the shapes of `call` only.
  absl::StatusOr<v1::ExplainResponse> Explain(const AttendCall& call) const;
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo() const;

  // grpc.health.v1. `service` empty: the whole server; NOT_FOUND for one it does not know.
  absl::StatusOr<HealthStatus> Health(const std::string& service = "") const;
  // Calls `on_change` with the present status and each later one, until it returns false (then OK) or the
  // stream ends (then why). Has no deadline.
  absl::Status WatchHealth(const std::string& service,
                           const std::function<bool(HealthStatus)>& on_change) const;

 private:
  Client(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options);
  void SetDeadline(grpc::ClientContext& context) const;

  ClientOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AttentionService::Stub> attention_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

}  // namespace tessera::client
