// One thread that takes replies and, in a closed loop, sends the next request; in an open loop a second one
// beside it sends by the clock.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "client/load/phase.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "tessera/v1/ledger.pb.h"

namespace tessera::load {

// What the workers of a phase share.
struct PhaseState {
  PhaseState(const Target& target, const Workload& workload, const PhaseSettings& settings,
             Verifier* verifier, LiveCounters& live);

  // Takes one of settings.count requests; false when none is left.
  bool TakeTicket();

  const Target& target;
  const Workload& workload;
  const PhaseSettings& settings;
  Verifier* const verifier;
  LiveCounters& live;
  const Clock::time_point start, measure_from, end;
  std::atomic<uint64_t> next_number{0};  // closed loop
  std::atomic<int64_t> tickets_taken{0};
  std::atomic<int64_t> in_flight{0};
};

class Worker {
 public:
  // `index` of settings.threads.
  Worker(PhaseState& phase, int index);
  ~Worker();

  // Returns when all its requests have ended.
  void Run();
  // One more than settings.cuts.
  const std::vector<Tally>& segments() const { return segments_; }

 private:
  struct Call;

  void Pace();  // open loop, in a thread of its own
  void StartClosedLoop();
  void SendNext(Call& call);  // closed loop
  void Send(Call& call, uint64_t n, Clock::time_point scheduled);
  void Receive();  // until all is over
  void Complete(Call& call, Clock::time_point now);
  void RecordReply(Call& call, Clock::time_point now, Tally& tally);
  size_t SegmentOf(Clock::time_point scheduled) const;
  void RecordUnsent(Clock::time_point scheduled);
  Call& TakeCall();
  void CancelAll();

  PhaseState& phase_;
  const int index_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  grpc::CompletionQueue queue_;
  std::atomic<int64_t> outstanding_{0};
  std::atomic<bool> sending_{true};
  std::mutex mutex_;  // of the two below
  std::vector<std::unique_ptr<Call>> calls_;
  std::vector<Call*> idle_;      // to be used again
  std::vector<Tally> segments_;  // the receiving thread's
  std::vector<Tally> unsent_;    // the pacing thread's, merged at the end
  v1::Ledger ledger_;
};

}  // namespace tessera::load
