// Runs the conformance grid on one backend, shipped or plugin. Exit codes: 0 all passed, 1 something failed,
// 2 the command line or the plugin is wrong, 77 this machine lacks what the backend needs.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "backend/core/dtype.h"
#include "backend/core/error.h"
#include "backend/core/plugin_loader.h"
#include "backend/core/registry.h"
#include "backend/cpu/cpu_backends.h"
#include "backend/cuda/cuda_backends.h"
#include "tests/conformance/backend_run.h"
#include "tests/conformance/case_grid.h"

ABSL_FLAG(std::string, backend, "", "Backend to test; may be left out with --backend_plugin");
ABSL_FLAG(std::string, backend_plugin, "", "Plugin to load");
ABSL_FLAG(int, cuda_device, tessera::CudaOptions::kAuto,
          "GPU that the CUDA backends run on; -1: the first, if there is one");
ABSL_FLAG(std::string, cpu_isa, "", "Instruction set of the CPU backends; the best usable one if left out");
ABSL_FLAG(int, threads, 0, "Worker threads of the CPU device; 0: one for each usable core");
ABSL_FLAG(uint64_t, seed, 0, "Seed of all inputs, to repeat a run; 0: a fresh one");
ABSL_FLAG(std::string, filter, "", "Run only cases whose name contains this");
ABSL_FLAG(bool, verbose, false, "Print the errors of every case");

namespace tessera::testing {
namespace {

constexpr int kExitFailed = 1, kExitUsage = 2, kExitMissing = 77;

int Stop(int code, const std::string& message) {
  std::fprintf(stderr, "tessera_conformance: %s\n", message.c_str());
  return code;
}

struct Totals {
  int run = 0, skipped = 0, failed = 0;
};

// A case's inputs depend on the seed and its name alone, so that --filter repeats them.
uint64_t SeedOf(uint64_t seed, const std::string& name) {
  for (unsigned char c : name) seed = (seed ^ c) * 0x100000001b3u;  // FNV-1a
  return seed;
}

// A Hopper GPU, the one that gives cuda_fused fp8, is to run all of 8 and 16 bits on its own kernels,
// whatever the features: a case that another kernel serves has failed.
void CheckKernel(const Backend& backend, const ProblemSpec& spec, CaseResult& result) {
  const BackendInfo& info = backend.info();
  const bool on_hopper =
      info.name == "cuda_fused" && (info.capabilities.input_dtypes & DTypeBit(TESSERA_DTYPE_FP8_E4M3)) != 0;
  if (!on_hopper || spec.dtype == TESSERA_DTYPE_FP32 || result.verdict != Verdict::kPassed) return;
  constexpr char kPrefix[] = "tessera_hopper_";
  if (absl::StartsWith(result.kernel, kPrefix)) return;
  result.verdict = Verdict::kFailed;
  result.message = absl::StrCat("ran on ", result.kernel, ", expected a kernel ", kPrefix, "*");
}

std::vector<ProblemSpec> CasesFor(Backend& backend) {
  std::vector<ProblemSpec> cases = ConformanceGrid();
  if (!absl::StartsWith(backend.device().id(), "cuda")) return cases;
  for (ProblemSpec& spec : ManyTileCases()) cases.push_back(std::move(spec));
  return cases;
}

Totals RunGrid(Backend& backend, uint64_t seed, const std::string& filter) {
  Totals totals;
  for (const ProblemSpec& spec : CasesFor(backend)) {
    if (spec.name.find(filter) == std::string::npos) continue;
    CaseResult result = RunCase(backend, spec, SeedOf(seed, spec.name));
    CheckKernel(backend, spec, result);
    const char* verdict = "ok";
    switch (result.verdict) {
      case Verdict::kSkipped:
        ++totals.skipped;
        verdict = "skipped";
        break;
      case Verdict::kFailed:
        ++totals.failed;
        verdict = "FAILED";
        [[fallthrough]];
      case Verdict::kPassed:
        ++totals.run;
    }
    if (result.verdict == Verdict::kPassed && !absl::GetFlag(FLAGS_verbose)) continue;
    std::printf("%-7s %s: %s (error %.2e, row %.2e, lse %.2e) %s\n", verdict, spec.name.c_str(),
                result.message.c_str(), result.error.relative, result.error.worst_row, result.error.worst_lse,
                result.kernel.c_str());
  }
  return totals;
}

// A GPU is opened only for a backend that runs on it.
absl::Status AddCuda(BackendRegistry& registry) {
  if (!absl::StartsWith(absl::GetFlag(FLAGS_backend), "cuda_")) return absl::OkStatus();
  return RegisterCudaBackends({.device = absl::GetFlag(FLAGS_cuda_device)}, registry).status();
}

// Registers everything else; the backend to test by name, or the one that the plugin brought.
absl::StatusOr<Backend*> FindBackend(const CpuOptions& options, BackendRegistry& registry) {
  std::string name = absl::GetFlag(FLAGS_backend);
  TESSERA_ASSIGN_OR_RETURN(Device * device, RegisterCpuBackends(options, registry));
  const std::string plugin = absl::GetFlag(FLAGS_backend_plugin);
  if (!plugin.empty()) {
    const std::vector<Backend*> shipped = registry.backends();
    TESSERA_RETURN_IF_ERROR(LoadPlugin(plugin, *device, CpuHostServices(), registry));
    for (Backend* backend : registry.backends()) {
      const bool is_new = std::find(shipped.begin(), shipped.end(), backend) == shipped.end();
      if (is_new && name.empty()) name = backend->info().name;
    }
  }
  return registry.Find(name);
}

int Main() {
  CpuOptions options{.num_threads = absl::GetFlag(FLAGS_threads), .isa = std::nullopt};
  if (const std::string name = absl::GetFlag(FLAGS_cpu_isa); !name.empty()) {
    kernels::cpu::Isa isa;
    if (!kernels::cpu::ParseIsa(name, &isa))
      return Stop(kExitUsage, "--cpu_isa: no such instruction set: " + name);
    options.isa = isa;
    if (!kernels::cpu::IsaUsable(isa)) {
      return Stop(kExitMissing, "skipped: this processor or build lacks the instruction set " + name);
    }
  }
  BackendRegistry registry;
  if (const absl::Status gpu = AddCuda(registry); !gpu.ok()) {
    return Stop(absl::IsInvalidArgument(gpu) ? kExitUsage : kExitFailed, std::string(gpu.message()));
  }
  const absl::StatusOr<Backend*> backend = FindBackend(options, registry);
  if (absl::IsUnavailable(backend.status())) {
    return Stop(kExitMissing, absl::StrCat("skipped: ", backend.status().message()));
  }
  if (!backend.ok()) return Stop(kExitUsage, std::string(backend.status().message()));

  uint64_t seed = absl::GetFlag(FLAGS_seed);
  if (seed == 0) seed = std::random_device{}();
  const auto info = (*backend)->device().Info();
  std::printf("backend %s on %s, seed %llu\n", (*backend)->info().name.c_str(),
              info.ok() ? info->name.c_str() : "an unknown device", static_cast<unsigned long long>(seed));
  const auto begin = std::chrono::steady_clock::now();
  const Totals totals = RunGrid(**backend, seed, absl::GetFlag(FLAGS_filter));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%d run, %d skipped (declared), %d failed, in %.1f s; seed %llu\n", totals.run, totals.skipped,
              totals.failed, seconds, static_cast<unsigned long long>(seed));
  if (totals.run == 0) return Stop(kExitFailed, "no case was run");
  return totals.failed == 0 ? 0 : kExitFailed;
}

}  // namespace
}  // namespace tessera::testing

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "runs the conformance grid on one backend: --backend=cpu_fused --cpu_isa=avx2");
  absl::ParseCommandLine(argc, argv);
  return tessera::testing::Main();
}
