// tessera-gpu-checks: one command that judges an installation on a machine with a GPU. Runs the programs
// beside it, prints a summary and writes DIR/gpu-checks.json with everything that was measured. Exit codes: 0
// nothing failed, 1 something failed (a GPU that cannot be used, say), 2 wrong usage, 77 no GPU, so nothing
// was run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/proto_json.h"
#include "tests/gpu_checks/environment.h"
#include "tests/gpu_checks/steps.h"

ABSL_FLAG(std::string, out, "gpu-checks", "folder for gpu-checks.json and the steps' logs; made if need be");
ABSL_FLAG(std::vector<std::string>, steps, {},
          "steps to run, by full name or by what stands before the dot: conformance,verify,memory,compare,"
          "kernel,memcheck,racecheck,traffic,peers,sweep,features,ragged,fp8; all if left out");
ABSL_FLAG(std::string, fused, "cuda_fused", "backend under test");
ABSL_FLAG(std::string, standard, "cuda_standard", "baseline");
ABSL_FLAG(std::string, filter, "", "run only conformance cases whose name contains this");
ABSL_FLAG(int, cases, 300, "random problems of verify, for each backend");
ABSL_FLAG(std::vector<std::string>, n, std::vector<std::string>({"1024", "2048", "4096", "8192", "16384"}),
          "sequence lengths of compare");
ABSL_FLAG(int, memory_n, 16384, "sequence length of the memory check");
ABSL_FLAG(bool, quick, false, "fewer cells of the kernel benchmark");
ABSL_FLAG(std::string, compute_sanitizer, "",
          "path of compute-sanitizer: adds the steps memcheck and racecheck");
ABSL_FLAG(
    std::string, sanitizer_filter, "",
    "conformance cases to run under it: those whose name has this; if left out, all under memcheck, and "
    "under racecheck those with 'd128_'");
ABSL_FLAG(std::string, ncu, "",
          "path of ncu: adds the step traffic, which holds the modelled memory traffic and the kernel's name "
          "to what ncu sees; needs python3");
ABSL_FLAG(std::string, python, "",
          "a python3 that has PyTorch: adds the steps peers, sweep, features, ragged and fp8, which time its "
          "kernels and ours in turn");
ABSL_FLAG(bool, require_all, false,
          "what would be skipped, for want of a GPU or of cuBLAS, say, is a failure");
ABSL_FLAG(int, step_timeout, 240, "seconds that each step may take");
ABSL_FLAG(int, time_limit, 0, "seconds for all steps; what no time is left for is skipped; 0: no limit");

namespace tessera::gpu_checks {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

constexpr int kExitFailed = 1, kExitUsage = 2, kExitNoGpu = 77;

int Stop(int code, const std::string& message) {
  std::fprintf(stderr, "tessera-gpu-checks: %s\n", message.c_str());
  return code;
}

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Settings SettingsFromFlags() {
  Settings settings;
  settings.out = absl::GetFlag(FLAGS_out);
  settings.quick = absl::GetFlag(FLAGS_quick);
  settings.filter = absl::GetFlag(FLAGS_filter);
  settings.cases = absl::GetFlag(FLAGS_cases);
  settings.lengths = absl::GetFlag(FLAGS_n);
  settings.memory_length = absl::GetFlag(FLAGS_memory_n);
  settings.compute_sanitizer = absl::GetFlag(FLAGS_compute_sanitizer);
  settings.ncu = absl::GetFlag(FLAGS_ncu);
  settings.python = absl::GetFlag(FLAGS_python);
  settings.sanitizer_filter = absl::GetFlag(FLAGS_sanitizer_filter);
  return settings;
}

// Leaves the steps that `selections` name, all if there are none; the first selection that names no step.
std::string Select(const std::vector<std::string>& selections, std::vector<Step>& steps) {
  if (selections.empty()) return "";
  const auto matched = [](const Step& step) {
    return [&step](const std::string& selection) { return step.MatchedBy(selection); };
  };
  for (const std::string& selection : selections) {
    if (std::none_of(steps.begin(), steps.end(),
                     [&](const Step& step) { return step.MatchedBy(selection); })) {
      return selection;
    }
  }
  std::erase_if(steps, [&](const Step& step) {
    return std::none_of(selections.begin(), selections.end(), matched(step));
  });
  return "";
}

Json ToJson(const std::string& name, const StepResult& result) {
  return {{"name", name},
          {"outcome", Name(result.outcome)},
          {"message", result.message},
          {"seconds", result.seconds},
          {"command", result.command},
          {"data", result.data},
          {"output", result.output}};
}

// The report, written anew after every step: a run that is cut off keeps what it has.
class Report {
 public:
  Report(std::filesystem::path folder, const Environment& environment) : folder_(std::move(folder)) {
    json_ = {{"version", environment.info.version()},
             {"commit", environment.info.commit()},
             {"date", UtcNow()},
             {"gpus", QueryGpus()},
             {"server_info", client::ToJson(environment.info)},
             {"fused", environment.fused},
             {"standard", environment.standard},
             {"passed", 0},
             {"failed", 0},
             {"skipped", 0},
             {"steps", Json::array()}};
  }

  void Add(const std::string& name, const StepResult& result) {
    json_["steps"].push_back(ToJson(name, result));
    json_[Name(result.outcome)] = json_[Name(result.outcome)].get<int>() + 1;
    // The clocks that the GPU had under load, or soon after.
    json_["gpus_after"] = QueryGpus();
    std::ofstream(folder_ / (name + ".log")) << result.output << result.log;
    Write();
  }

  // False when the folder does not take it.
  bool Write() const {
    std::ofstream file(folder_ / "gpu-checks.json");
    file << client::DumpJson(json_);
    return static_cast<bool>(file.flush());
  }

  const Json& json() const { return json_; }

 private:
  const std::filesystem::path folder_;
  Json json_;
};

StepResult RunTimed(const Step& step, Clock::time_point deadline) {
  const Clock::time_point begin = Clock::now();
  const auto left = std::chrono::duration_cast<seconds>(deadline - begin);
  StepResult result = left.count() < 1 ? Skipped("no time left, --time_limit")
                                       : step.run(std::min(left, seconds(absl::GetFlag(FLAGS_step_timeout))));
  result.seconds = SecondsSince(begin);
  if (result.outcome == Outcome::kSkipped && absl::GetFlag(FLAGS_require_all)) {
    result.outcome = Outcome::kFailed;
    result.message = absl::StrCat("skipped, --require_all: ", result.message);
  }
  return result;
}

// The exit code when the backend under test cannot run; says why.
int StopWithout(const std::string& backend, const BackendStatus& status, bool has_gpu) {
  const std::string message = absl::StrCat(backend, ": ", status.reason);
  if (!status.known) return Stop(kExitUsage, message);
  if (has_gpu) return Stop(kExitFailed, message);
  return Stop(absl::GetFlag(FLAGS_require_all) ? kExitFailed : kExitNoGpu,
              absl::StrCat("no CUDA device: ", message));
}

void PrintHeader(const Json& report) {
  std::printf("Tessera %s (%s), %s\n", report["version"].get<std::string>().c_str(),
              report["commit"].get<std::string>().c_str(), report["date"].get<std::string>().c_str());
  for (const Json& device : report["server_info"]["devices"]) {
    std::printf("%s: %s\n", device["id"].get<std::string>().c_str(),
                device["name"].get<std::string>().c_str());
  }
  if (!report["gpus"].is_array()) std::printf("nvidia-smi cannot be run: driver and clocks are not known\n");
  for (const Json& gpu : report["gpus"]) std::printf("nvidia-smi: %s\n", gpu.dump().c_str());
  std::printf("\n");
}

int Main() {
  const Settings settings = SettingsFromFlags();
  if (settings.cases < 1 || settings.memory_length < 1 || absl::GetFlag(FLAGS_step_timeout) < 1 ||
      absl::GetFlag(FLAGS_time_limit) < 0) {
    return Stop(kExitUsage,
                "--cases, --memory_n and --step_timeout must be at least 1, --time_limit at least 0");
  }
  const absl::StatusOr<Environment> environment =
      Explore(absl::GetFlag(FLAGS_fused), absl::GetFlag(FLAGS_standard));
  if (!environment.ok()) return Stop(kExitFailed, std::string(environment.status().message()));
  std::vector<Step> steps = MakeSteps(settings, *environment);
  if (const std::string unknown = Select(absl::GetFlag(FLAGS_steps), steps); !unknown.empty()) {
    return Stop(kExitUsage, absl::StrCat("--steps: there is no step '", unknown, "'; there are ",
                                         absl::StrJoin(steps, ", ", [](std::string* out, const Step& step) {
                                           *out += step.name;
                                         })));
  }
  if (!environment->fused_status.usable) {
    return StopWithout(environment->fused, environment->fused_status, environment->has_gpu);
  }

  const std::filesystem::path folder = settings.out;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  Report report(folder, *environment);
  if (error || !report.Write())
    return Stop(kExitFailed, absl::StrCat("--out: cannot write to ", folder.string()));
  PrintHeader(report.json());

  const int limit = absl::GetFlag(FLAGS_time_limit);
  const Clock::time_point deadline = Clock::now() + (limit > 0 ? seconds(limit) : std::chrono::hours(1000));
  for (const Step& step : steps) {
    const StepResult result = RunTimed(step, deadline);
    report.Add(step.name, result);
    std::printf("%-8s %-26s %7.1f s  %s\n", Name(result.outcome), step.name.c_str(), result.seconds,
                result.message.c_str());
    std::fflush(stdout);
  }
  const int failed = report.json()["failed"].get<int>();
  std::printf("\n%d passed, %d failed, %d skipped; see %s, and %s for what a step printed\n",
              report.json()["passed"].get<int>(), failed, report.json()["skipped"].get<int>(),
              (folder / "gpu-checks.json").c_str(), (folder / "STEP.log").c_str());
  return failed == 0 ? 0 : kExitFailed;
}

}  // namespace
}  // namespace tessera::gpu_checks

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "checks this installation on a GPU: conformance, verification, memory and speed.\n"
      "Example: tessera-gpu-checks --out=results --steps=conformance,memory");
  absl::ParseCommandLine(argc, argv);
  return tessera::gpu_checks::Main();
}
