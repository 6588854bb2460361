// A server in this process that can stop answering for a while, refuse on demand, and counts what reaches it.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tessera/v1/attention.grpc.pb.h"

namespace tessera::load {

class GatedServer {
 public:
  GatedServer() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }
  ~GatedServer() {
    if (staller_.joinable()) staller_.join();
    server_->Shutdown(std::chrono::system_clock::now());
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int64_t received() const { return service_.received; }
  // Every n-th request is refused as a full queue would.
  void RefuseEvery(int64_t n) { service_.refuse_every = n; }

  // From `after` from now on, for `length`, nothing is answered; then all that waits at once.
  void Stall(std::chrono::milliseconds after, std::chrono::milliseconds length) {
    if (staller_.joinable()) staller_.join();
    staller_ = std::thread([this, after, length] {
      std::this_thread::sleep_for(after);
      service_.Close();
      std::this_thread::sleep_for(length);
      service_.Open();
    });
  }

 private:
  class Service : public v1::AttentionService::CallbackService {
   public:
    grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext* context, const v1::AttendRequest*,
                                     v1::AttendResponse* response) override {
      grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
      const int64_t n = ++received;
      const bool refuse = refuse_every > 0 && n % refuse_every == 0;
      v1::Ledger& ledger = *response->mutable_ledger();
      ledger.set_flops(1000);
      ledger.mutable_time()->set_compute(10);
      ledger.mutable_time()->set_total(15);
      auto answer = [reactor, refuse] { reactor->Finish(refuse ? Refusal() : grpc::Status::OK); };
      {
        const std::lock_guard lock(mutex_);
        if (closed_) {
          waiting_.push_back(answer);
          return reactor;
        }
      }
      answer();
      return reactor;
    }

    void Close() {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    void Open() {
      std::vector<std::function<void()>> answers;
      {
        const std::lock_guard lock(mutex_);
        closed_ = false;
        answers.swap(waiting_);
      }
      for (const auto& answer : answers) answer();
    }

    std::atomic<int64_t> received{0}, refuse_every{0};

   private:
    static grpc::Status Refusal() {
      google::rpc::ErrorInfo info;
      info.set_reason("TOO_MANY_REQUESTS");
      info.set_domain("tessera");
      google::rpc::Status status;
      status.set_code(grpc::StatusCode::RESOURCE_EXHAUSTED);
      status.add_details()->PackFrom(info);
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, "full", status.SerializeAsString()};
    }

    std::mutex mutex_;
    bool closed_ = false;
    std::vector<std::function<void()>> waiting_;
  };

  int port_ = 0;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::thread staller_;
};

}  // namespace tessera::load
