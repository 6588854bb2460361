// One phase of a load test: one target, one way of sending, one stretch of time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/load/schedule.h"
#include "client/load/tally.h"
#include "client/load/target.h"
#include "client/load/verifier.h"
#include "client/load/workload.h"

namespace tessera::load {

// How requests leave. Closed: each of `concurrency` callers sends when its last reply is there. Open: when
// the schedule says, whatever the server does.
struct LoadPoint {
  int64_t concurrency = 0;                              // closed
  std::function<std::unique_ptr<Schedule>()> schedule;  // open; each call begins anew
  double rate = 0;                                      // open, requests/s; 0: the trace's
  std::string label;                                    // "concurrency 8", "1000/s poisson"

  bool open() const { return schedule != nullptr; }
};

struct PhaseSettings {
  LoadPoint point;
  Clock::duration warmup{std::chrono::seconds(1)};
  Clock::duration duration{std::chrono::seconds(10)};
  std::optional<int64_t> count;             // measured requests; ends the phase before `duration` does
  std::optional<Clock::duration> deadline;  // of each request, from its scheduled send
  Clock::duration drain{std::chrono::seconds(30)};  // how long requests in flight may take after the end
  int threads = 1;
  int64_t max_in_flight = 100'000;  // of the phase
  // Where the measured time is cut into segments that are counted apart, ascending, from the end of the
  // warm-up on.
  std::vector<Clock::duration> cuts;
};

// Of the phase that runs; relaxed, for the progress bar.
struct LiveCounters {
  std::atomic<int64_t> sent{0}, ok{0}, failed{0};
};

struct PhaseResult {
  Tally tally;
  std::vector<Tally> segments;  // what settings.cuts asks for; empty without
  double seconds = 0;           // from the end of the warm-up to the last send or, if later, the last reply
  double client_cpu = 0;        // CPU time of this process over the time of the phase, 1: one core
};

// Runs to its end. `verifier` may be null.
PhaseResult RunPhase(const Target& target, const Workload& workload, const PhaseSettings& settings,
                     Verifier* verifier, LiveCounters& live);

}  // namespace tessera::load
