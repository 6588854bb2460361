// Runs launches on one device: place, launch, account.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/arena.h"
#include "server/batch_placement.h"
#include "server/job.h"

namespace tessera {

// Not thread-safe: one thread runs it. Holds the device's stream, events and memory, which outlive the
// requests.
class Executor {
 public:
  // `device` outlives the executor.
  static absl::StatusOr<std::unique_ptr<Executor>> Create(Device& device, int64_t max_workspace_bytes);

  // Runs `jobs` (not empty, one backend; several: equal launch keys, CanShareLaunch) and completes each.
  // Several run as one launch; should that fail, each that is still alive runs alone, so that no request
  // fails for its company.
  void Run(std::vector<std::unique_ptr<Job>> jobs);

 private:
  Executor(Device& device, int64_t max_workspace_bytes);

  void RunAlone(std::unique_ptr<Job> job);
  absl::Status TryLaunch(const std::vector<Job*>& jobs);
  absl::Status Launch(const std::vector<Job*>& jobs);
  absl::Status Quiesce();
  absl::Status Account(const std::vector<Job*>& jobs, const AttentionProblem& problem, const Plan& plan,
                       bool placed);

  Device& device_;
  Stream stream_;
  Event began_, placed_, computed_, collected_;
  Arena workspace_;
  BatchPlacement placement_;
};

}  // namespace tessera
