// tessera-server: the composition root, and the only place in server/ that knows concrete backends.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "backend/core/error.h"
#include "backend/core/plugin_loader.h"
#include "backend/cpu/cpu_backends.h"
#include "backend/cuda/cuda_backends.h"
#include "server/build_info.h"
#include "server/flags.h"
#include "server/heap_settings.h"
#include "server/library_logs.h"
#include "server/log.h"
#include "server/server.h"
#include "server/signal_watcher.h"

namespace tessera {
namespace {

// What the process returns; documented by --help.
enum ExitStatus { kDrained = 0, kCannotStart = 1, kWrongUsage = 2, kGivenUp = 3, kDeviceLost = 4 };

absl::StatusOr<CpuOptions> CpuOptionsFrom(const CommandLine& line) {
  CpuOptions options;
  options.num_threads = line.threads;
  if (line.cpu_isa.empty()) return options;
  kernels::cpu::Isa isa;
  if (!kernels::cpu::ParseIsa(line.cpu_isa, &isa)) {
    return InvalidArgument("CPU_ISA_UNKNOWN", "--cpu-isa", "baseline, avx2, avx512, avx512_bf16 or amx_bf16",
                           Quoted(line.cpu_isa));
  }
  options.isa = isa;
  return options;
}

absl::Status AddCuda(const CommandLine& line, BackendRegistry& registry) {
  static_assert(kAutoCudaDevice == CudaOptions::kAuto && kNoCudaDevice == CudaOptions::kNone);
  TESSERA_RETURN_IF_ERROR(RegisterCudaBackends({.device = line.cuda_device}, registry).status());
  const absl::Status fused = registry.Find("cuda_fused").status();
  if (!fused.ok() && line.cuda_device != kNoCudaDevice) {
    Log().warn("event=cpu_fallback reason={}", Quoted(fused.message()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BackendRegistry>> MakeRegistry(const CommandLine& line) {
  auto registry = std::make_unique<BackendRegistry>();
  TESSERA_RETURN_IF_ERROR(AddCuda(line, *registry));
  TESSERA_ASSIGN_OR_RETURN(const CpuOptions cpu_options, CpuOptionsFrom(line));
  TESSERA_ASSIGN_OR_RETURN(Device* const cpu, RegisterCpuBackends(cpu_options, *registry));
  for (const std::string& path : line.backend_plugins) {
    TESSERA_RETURN_IF_ERROR(LoadPlugin(path, *cpu, CpuHostServices(), *registry));
  }
  return registry;
}

// The backends of shadow verification, apart from those that serve: a CPU device with a thread pool of one,
// and the GPU with streams and memory of their own.
absl::StatusOr<std::unique_ptr<BackendRegistry>> MakeVerifiers(const CommandLine& line) {
  auto verifiers = std::make_unique<BackendRegistry>();
  TESSERA_RETURN_IF_ERROR(RegisterCudaBackends({.device = line.cuda_device}, *verifiers).status());
  TESSERA_RETURN_IF_ERROR(RegisterCpuBackends({.num_threads = 1, .isa = std::nullopt}, *verifiers).status());
  return verifiers;
}

absl::StatusOr<std::unique_ptr<Server>> StartServer(const CommandLine& line) {
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<BackendRegistry> registry, MakeRegistry(line));
  for (const Backend* backend : registry->backends()) {
    Log().info("event=backend name={} device={} description={}", backend->info().name, backend->device().id(),
               Quoted(backend->info().description));
  }
  for (const UnavailableBackend& backend : registry->unavailable()) {
    Log().info("event=backend_unavailable name={} reason={}", backend.name, Quoted(backend.reason.message()));
  }
  std::unique_ptr<BackendRegistry> verifiers;
  if (line.server.shadow.rate > 0) {
    TESSERA_ASSIGN_OR_RETURN(verifiers, MakeVerifiers(line));
  }
  return Server::Start(line.server, std::move(registry), std::move(verifiers));
}

// What signals do, before, while and after there is a server.
class Shutdown {
 public:
  void OnSignal(int count) {
    std::lock_guard lock(mutex_);
    if (phase_ == kStarting) std::_Exit(kCannotStart);
    if (phase_ == kOver) return;
    if (count == 1) {
      Log().info("event=drain");
      server_->RequestDrain();
    } else {
      Log().warn("event=abort reason=\"second signal\"");
      server_->Abort();
    }
  }
  void Serving(Server* server) { Set(kServing, server); }
  void Over() { Set(kOver, nullptr); }

 private:
  enum Phase { kStarting, kServing, kOver };
  void Set(Phase phase, Server* server) {
    std::lock_guard lock(mutex_);
    phase_ = phase;
    server_ = server;
  }

  std::mutex mutex_;
  Phase phase_ = kStarting;
  Server* server_ = nullptr;
};

int Fail(ExitStatus status, const absl::Status& error) {
  std::fprintf(stderr, "tessera-server: %s\n", std::string(error.message()).c_str());
  return status;
}

int Main(int argc, char** argv) {
  KeepFreedMemory();
  // Distributions build Abseil with its checks on, and gRPC's locks are Abseil's: each would be looked up in
  // a graph of all, under one lock for the process. Tests keep the check.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const auto line = ParseCommandLine(argc, argv);
  if (!line.ok()) return Fail(kWrongUsage, line.status());
  if (line->help) return std::fputs(Usage().c_str(), stdout) < 0 ? kCannotStart : kDrained;
  if (line->version) {
    std::printf("tessera-server %s (%s)\n", Version().c_str(), GitCommit().c_str());
    return kDrained;
  }
  if (const absl::Status level = SetLogLevel(line->log_level); !level.ok()) return Fail(kWrongUsage, level);
  CaptureLibraryLogs();

  Shutdown shutdown;
  SignalWatcher signals([&shutdown](int count) { shutdown.OnSignal(count); });
  auto server = StartServer(*line);
  if (!server.ok()) {
    return Fail(absl::IsInvalidArgument(server.status()) ? kWrongUsage : kCannotStart, server.status());
  }
  shutdown.Serving(server->get());
  if (const std::string metrics = (*server)->metrics_address(); !metrics.empty()) {
    std::printf("metrics on %s\n", metrics.c_str());
    Log().info("event=metrics address={}", Quoted(metrics));
  }
  for (const std::string& address : (*server)->addresses()) {
    std::printf("listening on %s\n", address.c_str());
    Log().info("event=listening address={} version={} commit={}", Quoted(address), Version(), GitCommit());
  }
  std::fflush(stdout);

  const bool drained = (*server)->Wait();
  const bool device_lost = (*server)->device_lost();
  if (drained) {
    shutdown.Over();
    Log().info("event=drained");
    if (!device_lost) return kDrained;
  }
  Log().flush();
  // A launch may run for minutes and cannot be interrupted, and on a lost device nothing can be waited for or
  // be freed: leave without.
  std::_Exit(device_lost ? kDeviceLost : kGivenUp);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) { return tessera::Main(argc, argv); }
