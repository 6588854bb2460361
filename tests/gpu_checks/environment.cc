#include "tests/gpu_checks/environment.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/status_macros.h"

namespace tessera::gpu_checks {
namespace {

using std::chrono::seconds;

constexpr int kExitMissing = 77;  // of all our programs: the machine lacks what it takes

constexpr const char* kGpuFields[] = {"name",
                                      "driver_version",
                                      "clocks.sm",
                                      "clocks.mem",
                                      "clocks.max.sm",
                                      "clocks.max.mem",
                                      "power.draw",
                                      "power.limit",
                                      "memory.used",
                                      "memory.total",
                                      "ecc.mode.current",
                                      "temperature.gpu",
                                      "clocks_event_reasons.active"};

BackendStatus StatusOf(const std::string& name, const v1::GetServerInfoResponse& info) {
  for (const v1::BackendDescription& backend : info.backends()) {
    if (backend.name() == name)
      return {.known = true,
              .usable = backend.usable(),
              .reason = backend.unusable_reason(),
              .device = backend.device(),
              .takes_fp8 = std::find(backend.input_dtypes().begin(), backend.input_dtypes().end(),
                                     v1::DATA_TYPE_FP8_E4M3) != backend.input_dtypes().end()};
  }
  return {.reason = "this build has no such backend"};
}

bool HasGpu(const v1::GetServerInfoResponse& info) {
  return std::any_of(info.devices().begin(), info.devices().end(),
                     [](const v1::DeviceDescription& device) { return IsGpu(device.id()); });
}

Json Number(const std::string& text) {
  double number;
  return absl::SimpleAtod(text, &number) ? Json(number) : Json(text);
}

}  // namespace

std::string ProgramFolder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path().string(); }

Json QueryGpus() {
  const testing::ProcessResult query = testing::RunProcess(
      {"/usr/bin/env", "nvidia-smi", absl::StrCat("--query-gpu=", absl::StrJoin(kGpuFields, ",")),
       "--format=csv,noheader,nounits"},
      seconds(20));
  if (query.exit_code != 0) return nullptr;
  Json gpus = Json::array();
  for (absl::string_view line : absl::StrSplit(query.out, '\n', absl::SkipWhitespace())) {
    Json gpu;
    const std::vector<std::string> values = absl::StrSplit(line, ", ");
    for (size_t i = 0; i < std::size(kGpuFields) && i < values.size(); ++i) {
      gpu[kGpuFields[i]] = Number(values[i]);
    }
    gpus.push_back(std::move(gpu));
  }
  return gpus;
}

std::string UtcNow() { return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()); }

absl::StatusOr<Environment> Explore(const std::string& fused, const std::string& standard) {
  TESSERA_TRY_ASSIGN(const std::unique_ptr<StepServer> server, StepServer::Start());
  TESSERA_TRY_ASSIGN(const auto client, client::Client::Connect(server->address()));
  Environment environment;
  environment.fused = fused;
  environment.standard = standard;
  TESSERA_TRY_ASSIGN(environment.info, client->GetServerInfo());
  environment.fused_status = StatusOf(fused, environment.info);
  environment.standard_status = StatusOf(standard, environment.info);
  environment.has_gpu = HasGpu(environment.info);
  StepResult result;
  server->Finish(result);
  if (result.outcome != Outcome::kPassed) return absl::InternalError(result.message);
  return environment;
}

StepResult RunProgram(const std::string& program, const std::vector<std::string>& arguments,
                      seconds timeout) {
  const std::string path =
      program.find('/') == std::string::npos ? absl::StrCat(ProgramFolder(), "/", program) : program;
  if (!std::filesystem::exists(path)) return Failed(absl::StrCat(path, " does not exist"));
  std::vector<std::string> command{path};
  command.insert(command.end(), arguments.begin(), arguments.end());
  testing::ProcessResult run = testing::RunProcess(command, timeout);

  StepResult result;
  result.command = std::move(command);
  result.output = std::move(run.out);
  result.log = std::move(run.err);
  if (run.exit_code == 0) return result;
  result.outcome = run.exit_code == kExitMissing ? Outcome::kSkipped : Outcome::kFailed;
  result.message = run.exit_code == 128 + SIGKILL
                       ? absl::StrCat("killed: not done after ", timeout.count(), " s, or out of memory")
                       : absl::StrCat("exit code ", run.exit_code);
  return result;
}

absl::StatusOr<std::unique_ptr<StepServer>> StepServer::Start() {
  testing::ProcessResult failure;
  auto server = std::make_unique<StepServer>();
  server->process_ = testing::ServerProcess::Start(absl::StrCat(ProgramFolder(), "/tessera-server"),
                                                   {"--max-workspace-bytes=17179869184"}, &failure);
  if (server->process_ == nullptr) {
    return absl::InternalError(
        absl::StrCat("tessera-server does not start (exit code ", failure.exit_code, "): ", failure.err));
  }
  return server;
}

void StepServer::Finish(StepResult& result) {
  process_->Signal(SIGTERM);
  const int exit_code = process_->WaitForExit(seconds(40));
  absl::StrAppend(&result.log, process_->Log());
  if (exit_code == 0 || result.outcome == Outcome::kFailed) return;
  result.outcome = Outcome::kFailed;
  result.message = absl::StrCat("tessera-server ended with exit code ", exit_code);
}

}  // namespace tessera::gpu_checks
