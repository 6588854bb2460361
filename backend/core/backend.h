// What an attention backend is, for the server: the C++ face of tessera_backend_table. Shipped backends
// derive from it; PluginBackend (plugin_loader.h) adapts a loaded table to it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/attention_problem.h"
#include "backend/core/device.h"
#include "tessera/backend.h"

namespace tessera {

using Plan = tessera_plan;
using Capabilities = tessera_capabilities;

// Bytes that a launch takes from and leaves in device memory, DRAM for the host CPU. 0: not known.
struct ModelledTraffic {
  int64_t read_bytes = 0, write_bytes = 0;
};

struct BackendInfo {
  std::string name;         // "cpu_fused"
  std::string description;  // one line
  int auto_priority = 0;    // `auto` takes the highest that supports the problem; negative: never
  Capabilities capabilities{};
};

// Thread-safe but for Enqueue, which takes one thread per stream.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendInfo& info() const = 0;

  // The device whose memory and streams this backend takes. Outlives the backend.
  virtual Device& device() const = 0;

  // OK, or UNIMPLEMENTED naming what is missing and what there is; UNAVAILABLE when the backend cannot run on
  // this machine at all. The base checks info().capabilities; override to add what they cannot say.
  virtual absl::Status Supports(const AttentionProblem& problem) const;

  // What Enqueue will do and take. Launches nothing; data pointers may be null. `problem` is valid and
  // supported. Quick: every request waits for it, and a large one for that of each part it is cut into.
  virtual absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const = 0;

  // Queues the work on `stream`. `workspace`: plan.workspace_bytes of device memory, 64-byte aligned,
  // undefined content. Never allocates device memory, synchronises or keeps a pointer. Errors of the work
  // itself come with the event recorded after it.
  virtual absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                               tessera_stream* stream) = 0;

  // What Enqueue moves; `plan` is that of this very problem, whose data pointers may be null. It may take
  // milliseconds: call it where no work waits for it. By default nothing is known.
  virtual absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                                       const AttentionProblem& problem) const;
};

// UNIMPLEMENTED "<name>: head_dim 576 is not supported; supported: ..." unless the capabilities cover the
// problem.
absl::Status CheckCapabilities(const BackendInfo& info, const AttentionProblem& problem);

}  // namespace tessera
