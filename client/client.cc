#include "client/client.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/status_macros.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"

namespace tessera::client {
namespace {

constexpr char kAttendMethod[] = "/tessera.v1.AttentionService/Attend";

absl::Status CheckTarget(const std::string& target) {
  if (absl::StartsWith(target, "unix:")) {
    if (target.size() > 5) return absl::OkStatus();
    return absl::InvalidArgumentError("server address 'unix:' names no socket; use unix:PATH");
  }
  const size_t colon = target.rfind(':');
  int port = 0;
  const bool bracketed =
      absl::StartsWith(target, "[") && colon != std::string::npos && target[colon - 1] == ']';
  const bool one_colon = colon != std::string::npos && colon > 0 && target.find(':') == colon;
  if (!(bracketed || one_colon) || !absl::SimpleAtoi(target.substr(colon + 1), &port) || port < 1 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("server address '", target, "' is not HOST:PORT, [IPV6]:PORT or unix:PATH"));
  }
  return absl::OkStatus();
}

// Waits for a connection, and gives up at the first refusal: a caller that wants to wait for a server to
// start repeats Connect.
absl::Status AwaitConnection(grpc::Channel& channel, const std::string& target,
                             std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::system_clock::now() + timeout;
  grpc_connectivity_state state = channel.GetState(/*try_to_connect=*/true);
  while (state != GRPC_CHANNEL_READY) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN) {
      return absl::UnavailableError(absl::StrCat("no server answers at ", target));
    }
    if (!channel.WaitForStateChange(state, deadline)) {
      return absl::UnavailableError(
          absl::StrCat("no server answered at ", target, " within ", timeout.count(), " ms"));
    }
    state = channel.GetState(true);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const std::string& target,
                                                        const ClientOptions& options) {
  TESSERA_TRY(CheckTarget(target));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // Tensors do not go through a web proxy: an http_proxy in the environment is not meant for this channel.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
  TESSERA_TRY(AwaitConnection(*channel, target, options.connect_timeout));
  return std::unique_ptr<Client>(new Client(std::move(channel), options));
}

Client::Client(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options)
    : options_(options),
      channel_(std::move(channel)),
      attention_(v1::AttentionService::NewStub(channel_)),
      health_(grpc::health::v1::Health::NewStub(channel_)) {}

void Client::SetDeadline(grpc::ClientContext& context) const {
  if (options_.call_timeout) context.set_deadline(std::chrono::system_clock::now() + *options_.call_timeout);
}

absl::StatusOr<AttendResult> Client::Attend(const AttendCall& call) const {
  TESSERA_TRY_ASSIGN(const grpc::ByteBuffer message, EncodeMessage(call));
  grpc::ClientContext context;
  SetDeadline(context);
  // As a generated stub's blocking call, which would take the message as an object.
  grpc::TemplatedGenericStub<grpc::ByteBuffer, v1::AttendResponse> stub(channel_);
  grpc::CompletionQueue queue;
  const auto attempt = stub.PrepareUnaryCall(&context, kAttendMethod, message, &queue);
  v1::AttendResponse response;
  grpc::Status status;
  attempt->StartCall();
  attempt->Finish(&response, &status, /*tag=*/nullptr);
  queue.Shutdown();  // once the call is over
  void* tag = nullptr;
  bool ok = false;
  while (queue.Next(&tag, &ok)) {
  }
  TESSERA_TRY(FromGrpcStatus(status));
  return DecodeResponse(std::move(response));
}

absl::StatusOr<AttendResult> Client::Attend(const v1::AttendRequest& request) const {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::AttendResponse response;
  TESSERA_TRY(FromGrpcStatus(attention_->Attend(&context, request, &response)));
  return DecodeResponse(std::move(response));
}

std::unique_ptr<AttendStream> Client::OpenStream() const { return std::make_unique<AttendStream>(channel_); }

absl::StatusOr<v1::ExplainResponse> Client::Explain(const AttendCall& call) const {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ExplainRequest request;
  *request.mutable_request() = EncodeShapes(call);
  v1::ExplainResponse response;
  TESSERA_TRY(FromGrpcStatus(attention_->Explain(&context, request, &response)));
  return response;
}

absl::StatusOr<v1::GetServerInfoResponse> Client::GetServerInfo() const {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::GetServerInfoResponse response;
  TESSERA_TRY(FromGrpcStatus(attention_->GetServerInfo(&context, v1::GetServerInfoRequest(), &response)));
  return response;
}

absl::StatusOr<HealthStatus> Client::Health(const std::string& service) const {
  grpc::ClientContext context;
  SetDeadline(context);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  TESSERA_TRY(FromGrpcStatus(health_->Check(&context, request, &response)));
  return response.status();
}

absl::Status Client::WatchHealth(const std::string& service,
                                 const std::function<bool(HealthStatus)>& on_change) const {
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  auto reader = health_->Watch(&context, request);
  grpc::health::v1::HealthCheckResponse response;
  bool stopped = false;
  while (!stopped && reader->Read(&response)) stopped = !on_change(response.status());
  if (stopped) context.TryCancel();
  const absl::Status status = FromGrpcStatus(reader->Finish());
  return stopped ? absl::OkStatus() : status;
}

}  // namespace tessera::client
