// An AttentionService and a health service in this process, for tests of the client alone. Attend copies v
// into the output, so that a test can see which bytes travelled.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tessera/v1/attention.grpc.pb.h"

namespace tessera::client {

inline google::rpc::Status HeadCountError() {
  google::rpc::Status status;
  status.set_code(grpc::StatusCode::INVALID_ARGUMENT);
  status.set_message("q heads: expected a multiple of 2, got 3");
  google::rpc::ErrorInfo info;
  info.set_reason("HEAD_COUNT_NOT_DIVISIBLE");
  info.set_domain("tessera");
  (*info.mutable_metadata())["expected"] = "a multiple of 2";
  (*info.mutable_metadata())["actual"] = "3";
  status.add_details()->PackFrom(info);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_nanos(250'000'000);
  status.add_details()->PackFrom(retry);
  return status;
}

inline grpc::Status ToGrpc(const google::rpc::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), status.message(), status.SerializeAsString()};
}

// Backend names choose the behaviour: "refuse" fails with HeadCountError, "slow" takes 2 s, "liar" sends an
// output without bytes, anything else echoes.
class FakeAttention final : public v1::AttentionService::Service {
 public:
  grpc::Status Attend(grpc::ServerContext* context, const v1::AttendRequest* request,
                      v1::AttendResponse* response) override {
    last_request = *request;
    if (request->backend() == "refuse") return ToGrpc(HeadCountError());
    if (request->backend() == "slow") {
      for (int i = 0; i < 200 && !context->IsCancelled(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    Reply(*request, *response);
    return grpc::Status::OK;
  }

  // Holds all replies back until sending is closed and sends them in reverse, as a scheduler may.
  grpc::Status AttendStream(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::AttendResponse, v1::AttendRequest>* stream) override {
    std::vector<v1::AttendResponse> replies;
    v1::AttendRequest request;
    while (stream->Read(&request)) {
      v1::AttendResponse response;
      if (request.backend() == "refuse") {
        response.set_id(request.id());
        *response.mutable_status() = HeadCountError();
      } else {
        Reply(request, response);
      }
      replies.insert(replies.begin(), std::move(response));
    }
    for (const v1::AttendResponse& reply : replies) stream->Write(reply);
    return grpc::Status::OK;
  }

  grpc::Status Explain(grpc::ServerContext*, const v1::ExplainRequest* request,
                       v1::ExplainResponse* response) override {
    if (request->request().raw_size() != 0) return {grpc::StatusCode::INVALID_ARGUMENT, "shapes only"};
    response->mutable_choice()->set_backend("fake");
    response->set_workspace_bytes(4096);
    response->add_features("causal");
    return grpc::Status::OK;
  }

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override {
    response->set_version("9.9");
    return grpc::Status::OK;
  }

  v1::AttendRequest last_request;

 private:
  static void Reply(const v1::AttendRequest& request, v1::AttendResponse& response) {
    response.set_id(request.id());
    for (const v1::RequestedOutput& wanted : request.outputs()) {
      v1::OutputTensor* output = response.add_outputs();
      output->set_kind(wanted.kind());
      v1::Tensor* tensor = output->mutable_tensor();
      tensor->set_raw_index(static_cast<uint32_t>(response.raw_size()));
      if (wanted.kind() == v1::OUTPUT_KIND_LSE) {
        tensor->set_dtype(v1::DATA_TYPE_FP32);
        tensor->add_shape(1);
        response.add_raw(std::string(4, '\0'));
      } else {
        *tensor->mutable_shape() = request.v().shape();
        tensor->set_dtype(request.v().dtype());
        response.add_raw(
            request.backend() == "liar" ? "" : request.raw(static_cast<int>(request.v().raw_index())));
      }
    }
    response.mutable_ledger()->mutable_choice()->set_backend("fake");
    response.mutable_ledger()->mutable_memory()->set_workspace_peak(1 << 20);
  }
};

class FakeHealth final : public grpc::health::v1::Health::Service {
 public:
  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                     grpc::health::v1::HealthCheckResponse* response) override {
    if (request->service() == "unknown") return {grpc::StatusCode::NOT_FOUND, "no such service"};
    response->set_status(status);
    return grpc::Status::OK;
  }
  grpc::Status Watch(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest*,
                     grpc::ServerWriter<grpc::health::v1::HealthCheckResponse>* writer) override {
    grpc::health::v1::HealthCheckResponse response;
    response.set_status(grpc::health::v1::HealthCheckResponse::SERVING);
    writer->Write(response);
    response.set_status(grpc::health::v1::HealthCheckResponse::NOT_SERVING);
    writer->Write(response);
    return grpc::Status::OK;
  }

  grpc::health::v1::HealthCheckResponse::ServingStatus status =
      grpc::health::v1::HealthCheckResponse::SERVING;
};

// Both services on a free port of the loopback interface.
class FakeServer {
 public:
  FakeServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(-1);
    builder.RegisterService(&attention);
    builder.RegisterService(&health);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  FakeAttention attention;
  FakeHealth health;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace tessera::client
