// Speed and memory traffic of the attention backends on a GPU.
//
//   cuda_attention_bench --json=bench.json            every cell, bf16, cuda_fused against cuda_standard
//   cuda_attention_bench --cells=d128,gqa --dtypes=bf16,fp32 --backends=cuda_fused
//   cuda_attention_bench --traffic=d128_full_s2k      what cuda_traffic.py runs under ncu
//
// Each result is checked against float64 on sampled rows before it is timed. Rounds of the backends take
// turns; a round is several launches over fresh copies of the tensors, timed by device events. GB/s counts Q,
// K, V and O once. Exit codes: 0, 1 a wrong result or an error, 2 the command line, 77 no GPU.
#include <cuda_profiler_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backend/core/error.h"
#include "backend/core/registry.h"
#include "backend/cuda/cuda_backends.h"
#include "tests/benchmark/commit.h"
#include "tests/benchmark/cuda_ceilings.h"
#include "tests/benchmark/cuda_cell_run.h"
#include "tests/benchmark/cuda_cells.h"
#include "tests/benchmark/cuda_report.h"

ABSL_FLAG(std::vector<std::string>, backends, (std::vector<std::string>{"cuda_fused", "cuda_standard"}),
          "Backends to time");
ABSL_FLAG(std::vector<std::string>, dtypes, (std::vector<std::string>{"bf16"}), "Of bf16, fp16, fp32");
ABSL_FLAG(std::vector<std::string>, cells, {}, "Only cells whose name contains one of these");
ABSL_FLAG(bool, quick, false, "Only a few cells");
ABSL_FLAG(bool, list, false, "Print the names of the cells");
ABSL_FLAG(int, rounds, 7, "Rounds of each backend, at least 1");
ABSL_FLAG(std::string, json, "", "File to write all rounds to");
ABSL_FLAG(int, device, tessera::CudaOptions::kAuto, "GPU to use; -1: the first, if there is one");
ABSL_FLAG(uint64_t, seed, 0, "Seed of the inputs, to repeat a run; 0: a fresh one");
ABSL_FLAG(std::string, traffic, "", "Instead: launch the first backend on this cell, for a profiler");
ABSL_FLAG(int, launches, 8, "With --traffic: how often");

namespace tessera::benchmark {
namespace {

constexpr int kExitFailed = 1, kExitUsage = 2, kExitMissing = 77;
constexpr double kRoundMicroseconds = 15000;
constexpr int64_t kMaxLaunchesPerRound = 256;

int Stop(int code, const std::string& message) {
  std::fprintf(stderr, "cuda_attention_bench: %s\n", message.c_str());
  return code;
}

absl::StatusOr<DType> ParseDType(const std::string& name) {
  for (const DType dtype : {TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP16, TESSERA_DTYPE_FP32}) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return InvalidArgument("DTYPE", "--dtypes", "bf16, fp16 or fp32", name);
}

bool IsSelected(const Cell& cell) {
  const std::vector<std::string> parts = absl::GetFlag(FLAGS_cells);
  if (!parts.empty()) {
    return std::any_of(parts.begin(), parts.end(),
                       [&](const std::string& part) { return absl::StrContains(cell.name, part); });
  }
  return absl::GetFlag(FLAGS_quick) ? cell.quick : cell.by_default;
}

// One backend on one cell, ready to launch.
struct Contender {
  Backend* backend;
  DeviceBuffer workspace;
};

// Plans, allocates and checks; what comes to nothing is told in `result`.
absl::StatusOr<Contender> Prepare(Backend& backend, CellRun& run, tessera_stream* stream, uint64_t seed,
                                  BackendResult& result) {
  TESSERA_RETURN_IF_ERROR(backend.Supports(run.shapes()));
  TESSERA_ASSIGN_OR_RETURN(result.plan, backend.MakePlan(run.shapes()));
  TESSERA_ASSIGN_OR_RETURN(result.traffic, backend.ModelTraffic(result.plan, run.shapes()));
  Contender contender{&backend, {}};
  if (result.plan.workspace_bytes > 0) {
    TESSERA_ASSIGN_OR_RETURN(contender.workspace,
                             DeviceBuffer::Create(backend.device(), TESSERA_MEMORY_DEVICE,
                                                  static_cast<size_t>(result.plan.workspace_bytes)));
  }
  TESSERA_ASSIGN_OR_RETURN(result.error,
                           run.Check(backend, result.plan, contender.workspace.data(), stream, seed));
  return contender;
}

absl::StatusOr<double> TimeRound(Contender& contender, const Plan& plan, CellRun& run, tessera_stream* stream,
                                 int64_t launches) {
  return TimeOnDevice(contender.backend->device(), stream, launches, [&] {
    return run.Launch(*contender.backend, plan, contender.workspace.data(), stream);
  });
}

absl::Status TimeRounds(std::vector<Contender>& contenders, std::vector<BackendResult*>& results,
                        CellRun& run, tessera_stream* stream) {
  for (size_t i = 0; i < contenders.size(); ++i) {
    TESSERA_RETURN_IF_ERROR(TimeRound(contenders[i], results[i]->plan, run, stream, 2).status());
    TESSERA_ASSIGN_OR_RETURN(const double time, TimeRound(contenders[i], results[i]->plan, run, stream, 2));
    results[i]->launches_per_round =
        std::clamp<int64_t>(std::llround(kRoundMicroseconds / time), 2, kMaxLaunchesPerRound);
  }
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      TESSERA_ASSIGN_OR_RETURN(const double time, TimeRound(contenders[i], results[i]->plan, run, stream,
                                                            results[i]->launches_per_round));
      results[i]->microseconds.push_back(time);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CellResult> Measure(const Cell& cell, DType dtype, const std::vector<Backend*>& backends,
                                   Device& device, uint64_t seed) {
  TESSERA_ASSIGN_OR_RETURN(CellRun run, CellRun::Create(device, cell, dtype, seed));
  TESSERA_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(device));
  CellResult result{.cell = cell.name,
                    .dtype = DTypeName(dtype),
                    .flops = SizeOf(run.shapes()).flops,
                    .operand_bytes = run.operand_bytes(),
                    .copies = run.copies()};
  result.backends.resize(backends.size());
  std::vector<Contender> contenders;
  std::vector<BackendResult*> timed;
  for (size_t i = 0; i < backends.size(); ++i) {
    BackendResult& backend = result.backends[i];
    backend.backend = backends[i]->info().name;
    absl::StatusOr<Contender> contender = Prepare(*backends[i], run, stream.get(), seed, backend);
    if (absl::IsUnimplemented(contender.status()) || absl::IsResourceExhausted(contender.status())) {
      backend.not_run = std::string(contender.status().message());
      continue;
    }
    TESSERA_RETURN_IF_ERROR(contender.status());
    if (!backend.error.failure.empty()) continue;
    contenders.push_back(*std::move(contender));
    timed.push_back(&backend);
  }
  TESSERA_RETURN_IF_ERROR(TimeRounds(contenders, timed, run, stream.get()));
  return result;
}

absl::StatusOr<std::vector<Backend*>> FindBackends(const BackendRegistry& registry) {
  std::vector<Backend*> backends;
  for (const std::string& name : absl::GetFlag(FLAGS_backends)) {
    absl::StatusOr<Backend*> backend = registry.Find(name);
    if (absl::IsUnavailable(backend.status())) {
      std::fprintf(stderr, "%s is left out: %s\n", name.c_str(),
                   std::string(backend.status().message()).c_str());
      continue;
    }
    TESSERA_RETURN_IF_ERROR(backend.status());
    backends.push_back(*backend);
  }
  if (backends.empty()) return absl::InvalidArgumentError("--backends: none is left");
  return backends;
}

// Whether every backend that ran was right.
absl::StatusOr<bool> RunAll(const std::vector<Backend*>& backends, Device& device, Report& report) {
  std::vector<DType> dtypes;
  for (const std::string& name : absl::GetFlag(FLAGS_dtypes)) {
    TESSERA_ASSIGN_OR_RETURN(const DType dtype, ParseDType(name));
    dtypes.push_back(dtype);
  }
  bool right = true;
  uint64_t seed = report.seed;
  for (const Cell& cell : AllCells()) {
    if (!IsSelected(cell)) continue;
    for (const DType dtype : dtypes) {
      absl::StatusOr<CellResult> result = Measure(cell, dtype, backends, device, ++seed);
      if (!result.ok()) return Prefixed(cell.name, result.status());
      PrintCell(report, *result);
      for (const BackendResult& backend : result->backends) right = right && backend.error.failure.empty();
      report.cells.push_back(*std::move(result));
    }
  }
  if (report.cells.empty()) return InvalidArgument("CELLS", "--cells", "a part of a name in --list", "none");
  return right;
}

// What a profiler is to see: launches of one kernel on copies of the tensors, nothing between them. Prints
// the plan as one line of JSON.
absl::Status RunTraffic(Backend& backend, const Cell& cell, DType dtype, uint64_t seed) {
  TESSERA_ASSIGN_OR_RETURN(CellRun run, CellRun::Create(backend.device(), cell, dtype, seed));
  TESSERA_ASSIGN_OR_RETURN(const Stream stream, Stream::Create(backend.device()));
  BackendResult result;
  TESSERA_ASSIGN_OR_RETURN(Contender contender, Prepare(backend, run, stream.get(), seed, result));
  if (!result.error.failure.empty()) return absl::InternalError(result.error.failure);
  const int launches = absl::GetFlag(FLAGS_launches);
  cudaProfilerStart();
  const absl::Status status = TimeRound(contender, result.plan, run, stream.get(), launches).status();
  cudaProfilerStop();
  TESSERA_RETURN_IF_ERROR(status);
  std::printf(
      "{\"cell\": \"%s\", \"dtype\": \"%s\", \"backend\": \"%s\", \"kernel\": \"%s\", \"launches\": %d, "
      "\"kernels_per_launch\": %d, \"hbm_read_bytes\": %lld, \"hbm_write_bytes\": %lld, \"operand_bytes\": "
      "%lld, "
      "\"copies\": %lld, \"commit\": \"%s\"}\n",
      cell.name.c_str(), DTypeName(dtype).c_str(), backend.info().name.c_str(), result.plan.kernel, launches,
      result.plan.launches, static_cast<long long>(result.traffic.read_bytes),
      static_cast<long long>(result.traffic.write_bytes), static_cast<long long>(run.operand_bytes()),
      static_cast<long long>(run.copies()), Commit().c_str());
  return absl::OkStatus();
}

int TrafficMain(const std::vector<Backend*>& backends, uint64_t seed) {
  const std::string name = absl::GetFlag(FLAGS_traffic);
  const absl::StatusOr<DType> dtype = ParseDType(absl::GetFlag(FLAGS_dtypes).front());
  if (!dtype.ok()) return Stop(kExitUsage, std::string(dtype.status().message()));
  for (const Cell& cell : AllCells()) {
    if (cell.name != name) continue;
    const absl::Status status = RunTraffic(*backends.front(), cell, *dtype, seed);
    return status.ok() ? 0 : Stop(kExitFailed, status.ToString());
  }
  return Stop(kExitUsage, "--traffic: there is no cell " + name + "; see --list");
}

int BenchmarkMain(const std::vector<Backend*>& backends, Device& device, uint64_t seed) {
  Report report{.commit = Commit(), .seed = seed, .device_id = device.id()};
  absl::StatusOr<DeviceInfo> info = device.Info();
  if (!info.ok()) return Stop(kExitFailed, info.status().ToString());
  report.device = *std::move(info);
  absl::StatusOr<Ceilings> ceilings = MeasureCeilings(device);
  if (!ceilings.ok()) return Stop(kExitFailed, ceilings.status().ToString());
  report.ceilings_begin = *ceilings;
  report.state_begin = GpuState(absl::GetFlag(FLAGS_device));
  PrintHeader(report);

  const absl::StatusOr<bool> right = RunAll(backends, device, report);
  if (absl::IsInvalidArgument(right.status())) return Stop(kExitUsage, std::string(right.status().message()));
  if (!right.ok()) return Stop(kExitFailed, right.status().ToString());
  report.state_end = GpuState(absl::GetFlag(FLAGS_device));
  ceilings = MeasureCeilings(device);
  if (ceilings.ok()) report.ceilings_end = *ceilings;
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream file(path);
    file << ToJson(report);
    if (!file.flush()) return Stop(kExitFailed, "cannot write " + path);
  }
  return *right ? 0 : Stop(kExitFailed, "a result was wrong");
}

int Main() {
  if (absl::GetFlag(FLAGS_list)) {
    for (const Cell& cell : AllCells()) std::printf("%s\n", cell.name.c_str());
    return 0;
  }
  if (absl::GetFlag(FLAGS_rounds) < 1 || absl::GetFlag(FLAGS_launches) < 1 ||
      absl::GetFlag(FLAGS_dtypes).empty()) {
    return Stop(kExitUsage, "--rounds and --launches must be at least 1, --dtypes must name one");
  }
  BackendRegistry registry;
  const absl::StatusOr<Device*> device =
      RegisterCudaBackends({.device = absl::GetFlag(FLAGS_device)}, registry);
  if (!device.ok()) {
    return Stop(absl::IsInvalidArgument(device.status()) ? kExitUsage : kExitFailed,
                std::string(device.status().message()));
  }
  if (*device == nullptr) {
    return Stop(kExitMissing, absl::StrCat("skipped: ", registry.unavailable().front().reason.message()));
  }
  const absl::StatusOr<std::vector<Backend*>> backends = FindBackends(registry);
  if (!backends.ok()) return Stop(kExitUsage, std::string(backends.status().message()));
  uint64_t seed = absl::GetFlag(FLAGS_seed);
  if (seed == 0) seed = std::random_device{}();
  if (!absl::GetFlag(FLAGS_traffic).empty()) return TrafficMain(*backends, seed);
  return BenchmarkMain(*backends, **device, seed);
}

}  // namespace
}  // namespace tessera::benchmark

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "times the attention backends of a GPU; see the head of cuda_attention_bench.cc");
  absl::ParseCommandLine(argc, argv);
  return tessera::benchmark::Main();
}
