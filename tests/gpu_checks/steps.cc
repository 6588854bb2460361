#include "tests/gpu_checks/steps.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/table.h"

namespace tessera::gpu_checks {
namespace {

using std::chrono::seconds;
using Arguments = std::vector<std::string>;

// The last line that is not empty: where our programs sum up.
std::string LastLine(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  return lines.empty() ? "" : lines.back();
}

// Adds to the message, which a failed run has already.
void SumUp(StepResult& result, const std::string& summary) {
  absl::StrAppend(&result.message, result.message.empty() ? "" : ": ", summary);
}
void SumUpByLastLine(StepResult& result) {
  SumUp(result,
        LastLine(result.outcome == Outcome::kPassed || result.log.empty() ? result.output : result.log));
}

StepResult Conformance(const std::string& backend, const std::string& filter, seconds timeout) {
  StepResult result =
      RunProgram("tessera_conformance",
                 {absl::StrCat("--backend=", backend), absl::StrCat("--filter=", filter)}, timeout);
  SumUpByLastLine(result);
  return result;
}

// Runs a command of `tessera` against a server of its own.
StepResult RunClient(Arguments arguments, seconds timeout) {
  auto server = StepServer::Start();
  if (!server.ok()) return Failed(std::string(server.status().message()));
  arguments.push_back(absl::StrCat("--server=", (*server)->address()));
  StepResult result = RunProgram("tessera", arguments, timeout);
  (*server)->Finish(result);
  return result;
}

StepResult Verify(const std::string& backend, int64_t cases, seconds timeout) {
  StepResult result =
      RunClient({"verify", absl::StrCat("--backend=", backend), absl::StrCat("--cases=", cases)}, timeout);
  SumUpByLastLine(result);
  return result;
}

void TakeJson(Json data, StepResult& result) {
  if (!data.is_discarded()) {
    result.data = std::move(data);
  } else if (result.outcome == Outcome::kPassed) {
    result.outcome = Outcome::kFailed;
    result.message = "its results are not JSON";
  }
}

// Takes what a program wrote to `file` into the result's data.
void TakeJsonFile(const std::string& file, StepResult& result) {
  std::ifstream stream(file);
  TakeJson(Json::parse(stream, nullptr, /*allow_exceptions=*/false), result);
}

StepResult Compare(const Settings& settings, const Environment& environment, const std::string& dtype,
                   seconds timeout) {
  StepResult result = RunClient(
      {"bench", "compare", "--json", absl::StrCat("--dtype=", dtype),
       absl::StrCat("--fused=", environment.fused), absl::StrCat("--standard=", environment.standard),
       absl::StrCat("--n=", absl::StrJoin(settings.lengths, ","))},
      timeout);
  TakeJson(Json::parse(result.output, nullptr, /*allow_exceptions=*/false), result);
  if (!result.data.is_object()) return result;
  result.output.clear();  // it is the data
  std::string speed_ups;
  for (const Json& row : result.data.value("rows", Json::array())) {
    if (!row.contains("speed_up")) continue;
    absl::StrAppendFormat(&speed_ups, "%s%.2f at %d", speed_ups.empty() ? "speed-up " : ", ",
                          row["speed_up"].get<double>(), row["n"].get<int64_t>());
  }
  SumUp(result, speed_ups.empty() ? "nothing was measured" : speed_ups);
  return result;
}

// The kernels alone, without a server: the GPU's benchmark, or the CPU's where a CPU backend is under test.
StepResult KernelBenchmark(const Settings& settings, const Environment& environment, const std::string& dtype,
                           seconds timeout) {
  const std::string file = absl::StrCat(settings.out, "/kernel.", dtype, ".rounds.json");
  const bool on_gpu = environment.fused_status.on_gpu();
  Arguments arguments;
  if (on_gpu) {
    arguments = {absl::StrCat("--backends=", environment.fused, ",", environment.standard),
                 absl::StrCat("--dtypes=", dtype), absl::StrCat("--json=", file)};
    if (settings.quick) arguments.push_back("--quick");
  } else {
    const char* const number = dtype == "fp32" ? "1" : "3";  // tessera_dtype
    arguments = {absl::StrCat("--benchmark_filter=dtype:", number, "/",
                              settings.quick ? ".*Sq:1024/.*causal:0/threads:0" : ""),
                 "--benchmark_min_time=0.1", absl::StrCat("--benchmark_out=", file)};
  }
  StepResult result = RunProgram(on_gpu ? "cuda_attention_bench" : "cpu_attention_bench", arguments, timeout);
  if (absl::StrContains(result.output, "ERROR OCCURRED")) {  // Google Benchmark exits with 0
    result.outcome = Outcome::kFailed;
    result.message = "a result was wrong";
  }
  TakeJsonFile(file, result);
  for (const char* list : {"cells", "benchmarks"}) {
    if (result.data.contains(list))
      SumUp(result, client::Plural(static_cast<int64_t>(result.data[list].size()), "cell"));
  }
  return result;
}

// compute-sanitizer says "ERROR SUMMARY: 0 errors" and exits with our code when it found one. racecheck does
// not get through some small cases (kernels/README.md), so it has others unless it is told which.
StepResult Sanitize(const Settings& settings, const std::string& tool, const std::string& backend,
                    seconds timeout) {
  const bool narrow = settings.sanitizer_filter.empty() && tool == "racecheck";
  const std::string filter = narrow ? "d128_" : settings.sanitizer_filter;
  StepResult result = RunProgram(settings.compute_sanitizer,
                                 {"--tool", tool, "--error-exitcode", "99", "--launch-timeout", "0",
                                  absl::StrCat(ProgramFolder(), "/tessera_conformance"),
                                  absl::StrCat("--backend=", backend), absl::StrCat("--filter=", filter)},
                                 timeout);
  SumUpByLastLine(result);
  return result;
}

// Where the Python programs of tests/benchmark are installed.
std::string BenchmarkScript(const std::string& name) {
  return absl::StrCat(ProgramFolder(), "/../share/tessera/benchmark/", name);
}

// Modelled device-memory traffic against the counters of ncu, and the ledger's kernel name against ncu's.
StepResult Traffic(const Settings& settings, const std::string& backend, seconds timeout) {
  const std::string file = absl::StrCat(settings.out, "/traffic.rounds.json");
  const char* const path = std::getenv("PATH");
  const std::string ncu_folder = std::filesystem::absolute(settings.ncu).parent_path();
  StepResult result =
      RunProgram("/usr/bin/env",
                 {absl::StrCat("PATH=", ncu_folder, ":", path != nullptr ? path : "/usr/bin:/bin"), "python3",
                  BenchmarkScript("cuda_traffic.py"), absl::StrCat(ProgramFolder(), "/cuda_attention_bench"),
                  absl::StrCat("--backend=", backend), absl::StrCat("--json=", file)},
                 timeout);
  TakeJsonFile(file, result);
  SumUpByLastLine(result);
  return result;
}

// Our kernels and PyTorch's in one process, taking turns.
StepResult Peers(const Settings& settings, const std::string& group, seconds timeout) {
  const std::string file = absl::StrCat(settings.out, "/peers.", group, ".rounds.json");
  StepResult result = RunProgram("/usr/bin/env",
                                 {settings.python, BenchmarkScript("cuda_peers.py"),
                                  absl::StrCat(ProgramFolder(), "/../lib/libtessera_kernels_cuda_shared.so"),
                                  absl::StrCat("--only=", group), absl::StrCat("--json=", file)},
                                 timeout);
  TakeJsonFile(file, result);
  SumUpByLastLine(result);
  return result;
}

// The sweep: each cell of `groups` in turn with PyTorch's kernels, against its bar. A missed bar fails
// nothing, a wrong result does, and on a Hopper GPU, the one on which cuda_fused takes fp8, a kernel that is
// not Hopper's.
StepResult Sweep(const Settings& settings, const Environment& environment, const std::string& step,
                 const std::string& groups, seconds timeout) {
  constexpr seconds kStartAndLastCell{30};  // what --budget-seconds does not count
  const std::string file = absl::StrCat(settings.out, "/", step, ".rounds.json");
  const seconds budget = std::max(timeout - kStartAndLastCell, seconds(1));
  Arguments arguments = {settings.python,
                         BenchmarkScript("cuda_sweep.py"),
                         absl::StrCat(ProgramFolder(), "/../lib/libtessera_kernels_cuda_shared.so"),
                         absl::StrCat("--cells=", groups),
                         absl::StrCat("--budget-seconds=", budget.count()),
                         absl::StrCat("--json=", file)};
  if (step == "sweep") arguments.push_back(absl::StrCat("--png=", settings.out, "/sweep.png"));
  if (settings.quick) arguments.push_back("--quick");
  if (environment.fused == "cuda_fused" && environment.fused_status.takes_fp8)
    arguments.push_back("--expect-kernel=tessera_hopper_");
  StepResult result = RunProgram("/usr/bin/env", arguments, timeout);
  TakeJsonFile(file, result);
  SumUpByLastLine(result);
  return result;
}

// A step of one backend, skipped where that cannot run.
Step BackendStep(const std::string& check, const std::string& backend, const BackendStatus& status,
                 std::function<StepResult(seconds)> run) {
  return {absl::StrCat(check, ".", backend), [backend, &status, run = std::move(run)](seconds timeout) {
            if (!status.usable) return Skipped(absl::StrCat(backend, ": ", status.reason));
            return run(timeout);
          }};
}

// A step that sets the two backends side by side, skipped where one of them cannot run.
Step PairStep(const std::string& name, const Environment& environment,
              std::function<StepResult(seconds)> run) {
  return {name, [&environment, run = std::move(run)](seconds timeout) {
            const BackendStatus &fused = environment.fused_status, &standard = environment.standard_status;
            if (!fused.usable) return Skipped(absl::StrCat(environment.fused, ": ", fused.reason));
            if (!standard.usable) return Skipped(absl::StrCat(environment.standard, ": ", standard.reason));
            return run(timeout);
          }};
}

}  // namespace

std::vector<Step> MakeSteps(const Settings& settings, const Environment& environment) {
  const std::pair<std::string, const BackendStatus*> backends[] = {
      {environment.fused, &environment.fused_status}, {environment.standard, &environment.standard_status}};
  std::vector<Step> steps;
  for (const auto& [backend, status] : backends) {
    steps.push_back(
        BackendStep("conformance", backend, *status, [&settings, backend = backend](seconds timeout) {
          return Conformance(backend, settings.filter, timeout);
        }));
  }
  for (const auto& [backend, status] : backends) {
    steps.push_back(BackendStep("verify", backend, *status, [&settings, backend = backend](seconds timeout) {
      return Verify(backend, settings.cases, timeout);
    }));
  }
  steps.push_back(
      {"memory", [&](seconds timeout) { return CheckMemory(settings.memory_length, environment, timeout); }});
  for (const char* dtype : {"bf16", "fp32"}) {
    steps.push_back(PairStep(absl::StrCat("compare.", dtype), environment, [&, dtype](seconds timeout) {
      return Compare(settings, environment, dtype, timeout);
    }));
  }
  for (const char* dtype : {"bf16", "fp32"}) {
    steps.push_back(PairStep(absl::StrCat("kernel.", dtype), environment, [&, dtype](seconds timeout) {
      return KernelBenchmark(settings, environment, dtype, timeout);
    }));
  }
  if (!settings.compute_sanitizer.empty()) {
    for (const char* tool : {"memcheck", "racecheck"}) {
      for (const auto& [backend, status] : backends) {
        steps.push_back(
            BackendStep(tool, backend, *status, [&settings, tool, backend = backend](seconds timeout) {
              return Sanitize(settings, tool, backend, timeout);
            }));
      }
    }
  }
  if (!settings.ncu.empty()) {
    steps.push_back(BackendStep("traffic", environment.fused, environment.fused_status, [&](seconds timeout) {
      return Traffic(settings, environment.fused, timeout);
    }));
  }
  if (!settings.python.empty()) {
    for (const char* group : {"prefill", "wide", "gqa", "standard", "fp32"}) {
      steps.push_back({absl::StrCat("peers.", group),
                       [&, group](seconds timeout) { return Peers(settings, group, timeout); }});
    }
    const std::pair<const char*, const char*> sweeps[] = {
        {"sweep", "main,gqa"}, {"features", "features,window"}, {"ragged", "ragged"}, {"fp8", "fp8"}};
    for (const auto& [step, groups] : sweeps) {
      steps.push_back({step, [&, step = step, groups = groups](seconds timeout) {
                         return Sweep(settings, environment, step, groups, timeout);
                       }});
    }
  }
  return steps;
}

}  // namespace tessera::gpu_checks
