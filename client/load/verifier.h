// Holds a sample of the replies to the oracle's results while the load runs, out of its way: a thread that
// the system runs when nothing else wants the core, and a queue that drops what does not fit.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "client/load/workload.h"

namespace tessera::load {

struct VerifierReport {
  int64_t verified = 0, wrong = 0;
  int64_t dropped = 0;  // sampled, but the queue was full
  std::string first_wrong;
  client::Accuracy worst;
};

// Thread-safe.
class Verifier {
 public:
  // `workload` has its references and outlives this. `share` of the replies is sampled, in (0, 1].
  Verifier(const Workload& workload, double share);
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  bool Wants(uint64_t n) const;
  // Takes the reply to request `n`; never blocks for longer than a queue takes to be locked.
  void Offer(uint64_t n, grpc::ByteBuffer reply);
  // Judges what is left and reports all. Once, after the last Offer.
  VerifierReport Finish();

 private:
  void Loop();

  const Workload& workload_;
  const uint64_t interval_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<uint64_t, grpc::ByteBuffer>> queue_;
  int64_t dropped_ = 0;
  bool stopping_ = false;
  VerifierReport report_;  // the thread's, until it has ended
  std::thread thread_;
};

}  // namespace tessera::load
