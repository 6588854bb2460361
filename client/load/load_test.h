// A whole load test: its phases on all targets in turn, and what they showed.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/load/phase.h"
#include "client/load/server_totals.h"
#include "client/load/verdict.h"

namespace tessera::load {

struct SearchSettings {
  Clock::duration p99_limit;
  double first_rate = 100;
  double precision = 0.05;  // ends when the rates that held and failed are this close
};

struct OverloadSettings {
  double factor = 2;
  std::optional<double> capacity;  // requests/s; unset: measured by a closed loop first
  int64_t concurrency = 16;        // of that closed loop
  Clock::duration calm{
      std::chrono::seconds(5)};  // at half the capacity, before and after; no longer than the overload
};

struct LoadTestSettings {
  std::vector<LoadPoint> points;  // without search and overload
  std::optional<SearchSettings> search;
  std::optional<OverloadSettings> overload;
  PhaseSettings phase;                     // but its point and cuts
  Arrivals arrivals = Arrivals::kPoisson;  // of search and overload
  int rounds = 1;                          // of each point on each target, in turn
  double verify = 0;                       // share of the replies; 0: none
  std::string oracle = "cpu_standard";
  std::string metrics;  // HOST:PORT of the server's metrics, to compare totals with; empty: do not
  uint64_t seed = 0;
};

struct PointResult {
  std::string target, transport;
  LoadPoint point;
  int rounds = 0;
  PhaseResult phase;  // of all rounds together
  Verdict verdict;
};

struct SearchResult {
  std::string target;
  double held = 0;    // the highest rate that held the limit; 0: none did
  double failed = 0;  // the lowest that did not; 0: none was found
  std::string why;    // what failed there
};

struct OverloadResult {
  std::string target;
  double capacity = 0, offered = 0, goodput = 0;  // requests/s; goodput: replies within the deadline
  double shed = 0;                                // share of the requests that the server refused
  // From its end: until all requests are answered in time again, and until their latency is what it was;
  // nullopt: not seen.
  std::optional<double> recovery_seconds, latency_recovery_seconds;
};

struct LoadReport {
  std::string workload, server;
  std::vector<PointResult> points;  // in the order in which they ran first
  std::vector<SearchResult> searches;
  std::vector<OverloadResult> overloads;
  std::optional<VerifierReport> verification;
  std::optional<TotalsComparison> totals;
};

// Told of each phase, by the thread that runs the test.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void PhaseBegins(const std::string& target, const LoadPoint& point, Clock::duration length,
                           const LiveCounters& live) = 0;
  virtual void PhaseEnds(const PhaseResult& result) = 0;
};

// `targets` is not empty. An error only when nothing can be measured: the oracle fails, for example.
absl::StatusOr<LoadReport> RunLoadTest(const std::vector<std::unique_ptr<Target>>& targets,
                                       Workload& workload, const LoadTestSettings& settings,
                                       Observer& observer);

LoadPoint ClosedPoint(int64_t concurrency);
LoadPoint OpenPoint(Arrivals arrivals, double rate, uint64_t seed);
LoadPoint TracePoint(const Trace& trace, double speed);

// Cores that this process may use.
int UsableCores();

}  // namespace tessera::load
