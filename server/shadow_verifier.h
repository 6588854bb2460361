// Shadow verification: a sample of the finished requests, computed once more by standard attention, behind
// everybody's back.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "backend/core/registry.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/job.h"
#include "server/options.h"
#include "server/shadow_metrics.h"

namespace tessera {

// Thread-safe. One thread, of the lowest priority, replays; what waits for it is bounded in number and bytes,
// and what finds no room is dropped.
class ShadowVerifier {
 public:
  // Replays on the backends of `verifiers`: for a request that ran on device "cuda:0" that is cuda_standard,
  // or cpu_standard where there is none of the family. They should share no threads with those that serve.
  // `metrics` outlives this.
  ShadowVerifier(const ShadowOptions& options, int64_t max_workspace_bytes,
                 std::unique_ptr<BackendRegistry> verifiers, ShadowMetrics& metrics);
  // Drops what waits, and waits for the slice that runs.
  ~ShadowVerifier();

  // Takes a request that succeeded, if it is in the sample; `reply` is its serialised reply. Never waits, and
  // copies no payload: the job keeps its inputs alive, `reply` is shared.
  void Offer(std::unique_ptr<Job> job, const grpc::ByteBuffer& reply);

  // Takes no more, drops what waits. Returns at once. Idempotent.
  void Stop();

 private:
  struct Entry {
    std::unique_ptr<Job> job;
    grpc::ByteBuffer reply;
    Backend* standard = nullptr;
    int64_t bytes = 0;
  };

  bool IsSampled(const Job& job) const;
  // Null: the request ran on it, or there is none.
  Backend* StandardFor(const Backend& served) const;
  void Loop();
  // An error: there is no room.
  absl::Status Take(std::unique_ptr<Job> job, const grpc::ByteBuffer& reply);
  // Counts what comes of it; an error would be an exception's.
  absl::Status Verify(const Entry& entry);
  absl::StatusOr<double> Replay(const Entry& entry);
  void DropAll();  // with mutex_ held

  const ShadowOptions options_;
  const int64_t max_workspace_bytes_;
  const std::unique_ptr<BackendRegistry> verifiers_;
  ShadowMetrics& metrics_;
  std::atomic<bool> stopping_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Entry> entries_;
  int64_t held_bytes_ = 0;  // of what waits and what is being replayed
  std::thread thread_;      // last: it uses all of the above
};

}  // namespace tessera
