// What the server counts about its requests. The rest of the server records here; MetricsEndpoint publishes.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "backend/core/ledger.h"
#include "backend/core/registry.h"
#include "server/histogram.h"
#include "server/method.h"
#include "server/shadow_metrics.h"

namespace tessera {

inline constexpr int kNumStatusCodes = static_cast<int>(absl::StatusCode::kUnauthenticated) + 1;

// One request at its end.
struct RequestRecord {
  Method method = Method::kAttend;
  const Backend* backend = nullptr;  // null: it ended before one was chosen
  Ledger ledger;                     // as far as the request came
  bool computed = false;             // its launch succeeded, whether or not the client stayed for the reply
  bool leads_launch = false;  // counts what the launch as a whole cost; one computed request of each does
};

// Steps of a request's time, as the ledger has them.
enum Phase { kQueue, kTransferIn, kCompute, kTransferOut, kTotal, kNumPhases };

// Totals of the requests that one backend was chosen for.
struct BackendMetrics {
  explicit BackendMetrics(std::string backend_name);

  const std::string name;  // "none" for requests without a backend
  std::array<std::array<std::atomic<uint64_t>, kNumStatusCodes>, kNumMethods> requests{};
  // Of computed requests, in seconds.
  std::array<Histogram, kNumPhases> phases;
  // Of launches.
  Histogram batch_requests, batch_sequences;
  std::atomic<double> compute_seconds{0};
  std::atomic<int64_t> workspace_peak{0};
  // Doubles, as Prometheus's numbers are: int64 would overflow within days on a GPU.
  std::atomic<double> flops{0}, hbm_read{0}, hbm_write{0};
};

// Bytes of inline tensors: on the wire, and as copied on the host and between host and device on their way.
struct CopyMetrics {
  std::atomic<int64_t> payload_in{0}, payload_out{0};
  std::atomic<int64_t> host_in{0}, host_out{0};
  std::atomic<int64_t> device_in{0}, device_out{0};
};

// Thread-safe. Counting a request takes no lock and no memory unless it failed.
class Metrics {
 public:
  // Knows the backends of `registry`, which outlives it, by their addresses.
  explicit Metrics(const BackendRegistry& registry);

  // Counts a request; once for each, when it is known how it ended for the client.
  void CountRequest(const RequestRecord& record, const absl::Status& status);
  // Counts the end of a stream.
  void CountStream(absl::StatusCode code);

  ShadowMetrics& shadow() { return shadow_; }

  // ---- What was counted so far ----

  const ShadowMetrics& shadow() const { return shadow_; }

  const std::vector<std::unique_ptr<BackendMetrics>>& backends() const { return backends_; }
  const CopyMetrics& copies() const { return copies_; }
  uint64_t streams(absl::StatusCode code) const { return streams_[static_cast<size_t>(code)]; }
  // Requests that were answered with an error, by its reason. Not those whose client left.
  std::map<std::string, uint64_t> rejections() const;

 private:
  BackendMetrics& Of(const Backend* backend);
  void CountComputed(const RequestRecord& record, BackendMetrics& to);
  void CountRejection(const absl::Status& status);

  // By index: those of the registry, and the one for requests without a backend.
  std::vector<const Backend*> known_;
  std::vector<std::unique_ptr<BackendMetrics>> backends_;
  CopyMetrics copies_;
  ShadowMetrics shadow_;
  std::array<std::atomic<uint64_t>, kNumStatusCodes> streams_{};
  mutable std::mutex rejections_mutex_;
  std::map<std::string, uint64_t> rejections_;
};

}  // namespace tessera
