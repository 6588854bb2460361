// The executor of a device whose memory is the host's.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/core/arena.h"
#include "server/batch_placement.h"
#include "server/executor.h"
#include "server/output_memory.h"

namespace tessera {

// A lone request runs on its tensors where they arrived; several are packed first. Run returns when all is
// over. Holds the device's stream, events and memory, which outlive the requests.
class HostExecutor : public Executor {
 public:
  static absl::StatusOr<std::unique_ptr<Executor>> Create(Device& device, int64_t workspace_limit,
                                                          Owner& owner);
  void Run(Jobs jobs) override;

 private:
  HostExecutor(Device& device, int64_t workspace_limit, Owner& owner);

  absl::Status Launch(const std::vector<Job*>& jobs);
  absl::Status Quiesce();

  Stream stream_;
  Event placed_, computed_, done_;
  Arena workspace_;
  OutputMemory output_memory_;
  BatchPlacement placement_;
};

}  // namespace tessera
