// The journey of a request from its bytes to the scheduler: codec -> validation -> admission -> backend plan
// -> queue.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/admission.h"
#include "server/job.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/scheduler.h"
#include "server/shadow_verifier.h"

namespace tessera {

// Thread-safe. All arguments outlive it; `shadow` may be null.
class Pipeline {
 public:
  Pipeline(const ServerOptions& options, const BackendRegistry& registry, const Admission& admission,
           Scheduler& scheduler, Metrics& metrics, ShadowVerifier* shadow)
      : options_(options),
        registry_(registry),
        admission_(admission),
        scheduler_(scheduler),
        metrics_(metrics),
        shadow_(shadow) {}

  // How a request ended: its id (as far as it was read), the outcome, and on success the serialised reply.
  // Whoever takes it answers the client, and counts `record` when it is known whether that worked.
  struct Outcome {
    std::string id;
    absl::Status status;
    grpc::ByteBuffer reply;
    RequestRecord record;
  };
  using Done = std::function<void(Outcome&&)>;  // not by value: gRPC's buffers do not move, they copy

  // Takes one AttendRequest through to its reply. Calls `done` exactly once, perhaps before this returns.
  // Waits for no other request, but parses the message on the calling thread, and copies a large one's
  // tensors there. Clears `message`; gRPC's buffers live on until their tensors are placed.
  void Attend(RequestContext context, grpc::ByteBuffer& message, Done done);

  // Answers a request that admission turned away: reads only its id, so that the client knows which one it
  // was, and leaves the payload alone.
  void Refuse(RequestContext context, grpc::ByteBuffer& message, const absl::Status& reason, Done done);

  // Answers an ExplainRequest, and counts it.
  absl::StatusOr<grpc::ByteBuffer> Explain(RequestContext context, const grpc::ByteBuffer& message);

  // A context for a request that arrives now; numbers requests across the server.
  RequestContext NewContext(Method method, Clock::time_point deadline);

  Scheduler& scheduler() { return scheduler_; }
  Metrics& metrics() { return metrics_; }

 private:
  absl::Status Prepare(Job& job, grpc::ByteBuffer& message);
  absl::StatusOr<Backend*> Resolve(const DecodedRequest& request) const;

  const ServerOptions& options_;
  const BackendRegistry& registry_;
  const Admission& admission_;
  Scheduler& scheduler_;
  Metrics& metrics_;
  ShadowVerifier* const shadow_;
  std::atomic<uint64_t> next_number_{1};
};

}  // namespace tessera
