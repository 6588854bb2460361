// The backends and devices of one server, by name.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/backend.h"

namespace tessera {

// A backend that this build or machine cannot offer, with the reason, so that a request for it says why.
struct UnavailableBackend {
  std::string name;
  absl::Status reason;
};

// Filled at start-up by the composition root, read-only and thread-safe afterwards.
class BackendRegistry {
 public:
  // Devices outlive the backends that use them: the registry destroys backends first.
  Device& AddDevice(std::unique_ptr<Device> device);
  // ALREADY_EXISTS when the name is taken, INVALID_ARGUMENT when it is not [a-z][a-z0-9_]*.
  absl::Status Add(std::unique_ptr<Backend> backend);
  void AddUnavailable(UnavailableBackend backend);

  // NOT_FOUND naming the backends there are; UNAVAILABLE with its reason for an unavailable one.
  absl::StatusOr<Backend*> Find(const std::string& name) const;

  // The backend to run a valid problem on. `name` empty or "auto": the highest auto_priority that supports
  // it, else UNIMPLEMENTED listing each backend's refusal. A named backend that refuses: its refusal.
  absl::StatusOr<Backend*> Resolve(const std::string& name, const AttentionProblem& problem) const;

  // By falling priority, then by name.
  std::vector<Backend*> backends() const;
  const std::vector<UnavailableBackend>& unavailable() const { return unavailable_; }
  std::vector<Device*> devices() const;

 private:
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<UnavailableBackend> unavailable_;
};

}  // namespace tessera
