// What the CUDA benchmark found, as a table and as JSON.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/core/backend.h"
#include "backend/core/device.h"
#include "tests/benchmark/cuda_ceilings.h"
#include "tests/benchmark/sampled_rows.h"

namespace tessera::benchmark {

struct BackendResult {
  std::string backend;
  std::string not_run;  // why, or empty
  Plan plan{};
  ModelledTraffic traffic;
  SampledError error;
  int64_t launches_per_round = 0;
  std::vector<double> microseconds;  // of one launch, by round

  bool timed() const { return !microseconds.empty(); }
};

struct CellResult {
  std::string cell, dtype;
  int64_t flops = 0, operand_bytes = 0, copies = 0;
  std::vector<BackendResult> backends;  // as asked for; rounds of all ran in turn
};

struct Report {
  std::string commit;
  uint64_t seed = 0;
  std::string device_id;
  DeviceInfo device;
  // `nvidia-smi` on driver, clocks, power and temperature when the run began and ended; empty without it.
  std::string state_begin, state_end;
  Ceilings ceilings_begin, ceilings_end;
  std::vector<CellResult> cells;
};

// "driver 580.159.04, SM 1980 MHz, ..." of GPU `ordinal`.
std::string GpuState(int ordinal);

void PrintHeader(const Report& report);
// A line for each backend; those behind the first with the ratio of their times to the first's, the median
// over the rounds and its range.
void PrintCell(const Report& report, const CellResult& cell);

std::string ToJson(const Report& report);

}  // namespace tessera::benchmark
