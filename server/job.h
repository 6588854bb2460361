// One request on its way through the server.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/core/backend.h"
#include "backend/core/ledger.h"
#include "server/method.h"
#include "server/output_memory.h"
#include "server/request_codec.h"
#include "server/wire_message.h"

namespace tessera {

using Clock = std::chrono::steady_clock;

inline double Microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

// Where a request came from, and until when its answer is wanted.
struct RequestContext {
  uint64_t number = 0;  // the server's own id, for the log
  Method method = Method::kAttend;
  Clock::time_point arrival;
  Clock::time_point deadline = Clock::time_point::max();
  // Set once nobody waits for the answer; shared by all requests of a stream.
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);
};

struct Job {
  RequestContext context;
  std::unique_ptr<WireRequest> wire;  // keeps what request's sources point to until placed; null: others do
  DecodedRequest request;
  std::vector<HostBuffer> inputs;    // once placed on the host: the tensors of request.problem
  std::vector<OutputBytes> outputs;  // once it has run: as request.outputs
  Backend* backend = nullptr;
  Plan plan{};
  ModelledTraffic traffic;  // of the plan; known once the device works
  LaunchKey key{};
  ProblemSize size{};
  Clock::time_point queued_at;
  // It has failed in a launch that it shared, or that others ran beside: it runs once more, by itself.
  bool alone = false;
  // Set on one job of each launch that computed, so that what all of it cost is counted once.
  bool leads_launch = false;
  Ledger ledger;
  // Called exactly once, on any thread, with the job itself and how it ended. Must not block.
  std::function<void(std::unique_ptr<Job>, const absl::Status&)> done;
};

using Jobs = std::vector<std::unique_ptr<Job>>;

inline void Complete(std::unique_ptr<Job> job, const absl::Status& status) {
  const auto done = std::move(job->done);
  done(std::move(job), status);
}

}  // namespace tessera
