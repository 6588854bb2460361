// When the requests of an open loop leave: fixed beforehand, whatever the server does.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::load {

using Nanoseconds = std::chrono::nanoseconds;

// Successive send times, from the start of the phase on; never earlier than the one before.
class Schedule {
 public:
  virtual ~Schedule() = default;
  // nullopt: there are no more.
  virtual std::optional<Nanoseconds> Next() = 0;
};

enum class Arrivals { kConstant, kPoisson };

// `rate` > 0, requests a second, for ever. Constant: request n at n / rate, with no drift however long it
// runs. Poisson: independent exponential gaps, the same for a seed on every machine.
std::unique_ptr<Schedule> MakeSchedule(Arrivals arrivals, double rate, uint64_t seed);

struct RateStep {
  double rate = 0;
  Nanoseconds duration{0};
};
// One rate after the other; ends with the last step.
std::unique_ptr<Schedule> MakeSteps(Arrivals arrivals, std::vector<RateStep> steps, uint64_t seed);

struct TraceEntry {
  Nanoseconds at{0};
  std::optional<int64_t> q_len, kv_len;  // of the request's sequence, where the trace says
};
using Trace = std::vector<TraceEntry>;

// One request a line: SECONDS[,Q_LEN[,KV_LEN]]; '#' begins a comment, blank lines are skipped, and a first
// line of names ("seconds,q_len") too. Times count from the trace's start and may not decrease; either all
// lines have lengths or none. INVALID_ARGUMENT names the line, what was expected and what it holds.
absl::StatusOr<Trace> ParseTrace(const std::string& text);
absl::StatusOr<Trace> ReadTrace(const std::string& path);

// `speed` times as fast as recorded.
std::unique_ptr<Schedule> ReplayTrace(const Trace& trace, double speed);

}  // namespace tessera::load
