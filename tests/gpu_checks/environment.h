// What the checks run against: the programs beside this one, the GPU, and the two backends.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "tests/gpu_checks/step.h"
#include "tests/integration/subprocess.h"

namespace tessera::gpu_checks {

// The folder of this program, where tessera-server and the others are too.
std::string ProgramFolder();

// Name, driver, clocks (MHz), power and temperature of each GPU as nvidia-smi tells them; null without it.
Json QueryGpus();

// "2026-11-22T17:45:15Z"
std::string UtcNow();

// By a device's id.
inline bool IsGpu(const std::string& device) { return device.rfind("cuda", 0) == 0; }

struct BackendStatus {
  bool known = false;  // to this build
  bool usable = false;
  std::string reason;  // when not usable
  std::string device;
  bool takes_fp8 = false;
  bool on_gpu() const { return IsGpu(device); }
};

struct Environment {
  std::string fused, standard;  // backend names
  BackendStatus fused_status, standard_status;
  bool has_gpu = false;            // one that the server opened
  v1::GetServerInfoResponse info;  // of the server that was asked
};

// Starts a server, asks it for its backends, and stops it.
absl::StatusOr<Environment> Explore(const std::string& fused, const std::string& standard);

// Runs a program of ProgramFolder(), or any by its path. Killed after `timeout`; passes on exit code 0, and
// is skipped on 77.
StepResult RunProgram(const std::string& program, const std::vector<std::string>& arguments,
                      std::chrono::seconds timeout);

// A server for one step, with room for the largest score matrix of the checks.
class StepServer {
 public:
  static absl::StatusOr<std::unique_ptr<StepServer>> Start();

  const std::string& address() const { return process_->address(); }
  // Stops it; a server that does not end with 0 fails the step. Adds its log to the step's.
  void Finish(StepResult& result);

 private:
  std::unique_ptr<testing::ServerProcess> process_;
};

}  // namespace tessera::gpu_checks
