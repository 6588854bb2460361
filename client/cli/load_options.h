// The options of `tessera load`, and the load test that they ask for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/connection.h"
#include "client/cli/options.h"
#include "client/load/attend_workload.h"
#include "client/load/load_test.h"

namespace tessera::client {

struct LoadOptions {
  // Load
  std::string concurrency;
  std::vector<float> rates;
  std::string arrivals = "poisson";
  std::string trace;
  double trace_speed = 1;
  bool find_rate = false;
  std::optional<double> p99_limit_ms;
  std::optional<double> overload, capacity;
  // Time
  double warmup = 1;
  std::optional<double> duration;
  std::optional<int64_t> count;
  std::optional<double> deadline_ms;
  int64_t rounds = 1;
  // Requests
  std::vector<std::string> dtypes{"fp32"};
  std::string sequences, q_len, kv_len, output_dtype;
  std::optional<int64_t> kv_heads;
  std::optional<float> scale, softcap;
  std::optional<int64_t> window_left;
  bool causal = false;
  load::AttendShape shape;
  std::optional<uint64_t> seed;
  // Verification
  double verify = 0.01;
  std::string oracle = "cpu_standard";
  // Client
  std::vector<std::string> servers{ConnectionOptions().server};
  int64_t channels = 1, threads = 1, max_in_flight = 100'000;
  // Results
  std::string json, csv, html;
  std::string metrics;
};

// Everything that LoadOptions ask for, checked.
struct LoadPlan {
  load::LoadTestSettings settings;
  load::AttendShape shape;
  std::optional<load::Trace> trace;
};

OptionTable MakeLoadTable(LoadOptions& options);

// A usage error (cli.h) for values that are out of range or exclude each other; NOT_FOUND or INVALID_ARGUMENT
// for a trace file.
absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options);

}  // namespace tessera::client
