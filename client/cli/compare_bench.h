// The classic comparison, fused against standard attention over growing N: measuring, apart from how it is
// shown.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/accuracy.h"
#include "client/cli/random.h"
#include "client/client.h"

namespace tessera::client {

struct CompareSettings {
  std::string standard, fused, oracle;
  DType dtype = v1::DATA_TYPE_FP32;
  int64_t heads = 4;
  int64_t head_dim = 128;
  bool causal = false;
  int64_t rounds = 7;
  double max_standard_seconds = 60;  // per N, over all rounds
};

// One backend at one N.
struct Measurement {
  std::string backend, kernel;     // what the ledger says ran
  std::vector<double> compute_us;  // the ledger's compute time, one entry per round
  int64_t workspace_peak = 0;
  int64_t flops = 0;
  Accuracy accuracy;
  std::string skipped;  // why there are no rounds, or fewer than asked for; empty otherwise

  bool measured() const { return !compute_us.empty(); }
};

struct CompareRow {
  int64_t n = 0;
  Measurement standard, fused;
  std::string violation;  // what is off about a result, empty when both are right

  // Median of standard/fused over the rounds that both have; nullopt without any.
  std::optional<double> SpeedUp() const;
};

// What the fused backend (a name or "auto") is compared with when the user names nothing: cuda_standard for a
// backend of the same GPU, else cpu_unfused; the slow oracle only where neither can run.
std::string DefaultStandard(const std::string& fused, const v1::GetServerInfoResponse& info);

double Median(std::vector<double> values);
// Half the range over the median: 0.03 is +-3 %.
double Spread(const std::vector<double>& values);

// Measures one N after another. For each: random inputs, a warm-up call of each backend whose result is held
// to the oracle on a random sample of query rows, then `rounds` rounds of standard and fused in turn.
class CompareBench {
 public:
  CompareBench(const CompareSettings& settings, uint64_t seed, const Client& client);

  // The server's error when something other than a limit stops the measurement.
  absl::StatusOr<CompareRow> Measure(int64_t n);

 private:
  struct Inputs;
  absl::StatusOr<AttendResult> OracleRows(const Inputs& inputs, const std::vector<int64_t>& rows) const;
  absl::StatusOr<std::optional<AttendResult>> WarmUp(const v1::AttendRequest& request,
                                                     Measurement& measurement) const;
  // Rounds of the standard backend that fit its budget at this N, judged by its warm-up; at least 1.
  int64_t AffordableRounds(double warm_up_us, Measurement& measurement) const;
  bool TooSlowToTry(int64_t n, Measurement& measurement) const;

  const CompareSettings settings_;
  const Client& client_;
  Random random_;
  // The last N at which the standard backend ran, and its time: predicts the next, as N^2.
  int64_t last_n_ = 0;
  double last_standard_us_ = 0;
};

}  // namespace tessera::client
