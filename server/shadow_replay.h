// Computes parts of finished requests once more, on a standard backend, and compares.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/executor.h"
#include "server/shadow_slices.h"

namespace tessera {

// Memory and streams for replays on one backend; for one thread.
class ShadowReplay : private Executor::Owner {
 public:
  // `backend` outlives this. No replay takes more than `max_workspace_bytes` of device scratch at a time.
  static absl::StatusOr<std::unique_ptr<ShadowReplay>> Create(Backend& backend, int64_t max_workspace_bytes);

  // The relative error (Frobenius norm, over the rows replayed) of `output`, which lies as request.problem.o
  // says, against the backend's, rounded to the same dtype. Infinite where just one of two elements is
  // NaN, or where there is only zero to compare with; infinities count as the dtype's largest number. Replays
  // what fits a fixed number of operations, chosen by `seed`. CANCELLED once `stop`, at the next slice;
  // OUT_OF_RANGE for a request too large to replay any row of.
  absl::StatusOr<double> RelativeError(const DecodedRequest& request, const std::byte* output, uint64_t seed,
                                       const std::atomic<bool>& stop);

 private:
  ShadowReplay(Backend& backend, int64_t max_workspace_bytes);

  // Its output.
  absl::StatusOr<OutputBytes> Run(DecodedRequest slice);
  void RunAlone(Jobs jobs) override;
  void DeviceLost(const absl::Status&) override {}  // the job's status says it

  Backend& backend_;
  const int64_t max_workspace_bytes_;
  std::unique_ptr<Executor> executor_;
};

}  // namespace tessera
