#include "server/metrics.h"

#include <iterator>
#include <utility>

#include "backend/core/error.h"

namespace tessera {
namespace {

constexpr double kSecondsBounds[] = {1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2,
                                     5e-2, 0.1,    0.25, 0.5,  1,      2.5,  5,    10,     30,   60};
constexpr double kBatchRequestsBounds[] = {1, 2, 4, 8, 16, 32, 64};
constexpr double kBatchSequencesBounds[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536};
static_assert(std::size(kSecondsBounds) <= Histogram::kMaxBounds);

// Reasons are constants of the code, but a plugin's are its own: past so many, the rest is one.
constexpr size_t kMaxReasons = 100;
constexpr char kOtherReasons[] = "OTHER";

void Add(std::atomic<double>& total, double value) { total.fetch_add(value, std::memory_order_relaxed); }
void Add(std::atomic<int64_t>& total, int64_t value) { total.fetch_add(value, std::memory_order_relaxed); }

void RaiseTo(std::atomic<int64_t>& most, int64_t value) {
  int64_t seen = most.load(std::memory_order_relaxed);
  while (seen < value && !most.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

// Whether the error went to a client that was there to read it.
bool IsAnswer(absl::StatusCode code) {
  return code != absl::StatusCode::kCancelled && code != absl::StatusCode::kDeadlineExceeded;
}

}  // namespace

BackendMetrics::BackendMetrics(std::string backend_name)
    : name(std::move(backend_name)),
      phases{Histogram(kSecondsBounds), Histogram(kSecondsBounds), Histogram(kSecondsBounds),
             Histogram(kSecondsBounds), Histogram(kSecondsBounds)},
      batch_requests(kBatchRequestsBounds),
      batch_sequences(kBatchSequencesBounds) {}

Metrics::Metrics(const BackendRegistry& registry) {
  for (const Backend* backend : registry.backends()) {
    known_.push_back(backend);
    backends_.push_back(std::make_unique<BackendMetrics>(backend->info().name));
  }
  backends_.push_back(std::make_unique<BackendMetrics>("none"));
}

// A handful of pointers to compare.
BackendMetrics& Metrics::Of(const Backend* backend) {
  size_t index = 0;
  while (index < known_.size() && known_[index] != backend) ++index;
  return *backends_[index];
}

void Metrics::CountRequest(const RequestRecord& record, const absl::Status& status) {
  BackendMetrics& backend = Of(record.backend);
  backend.requests[static_cast<size_t>(record.method)][static_cast<size_t>(status.code())].fetch_add(
      1, std::memory_order_relaxed);
  const MemoryLedger& memory = record.ledger.memory;
  Add(copies_.host_in, memory.host_copies_in_bytes);
  if (record.computed) CountComputed(record, backend);
  if (!status.ok() && IsAnswer(status.code())) CountRejection(status);
}

void Metrics::CountComputed(const RequestRecord& record, BackendMetrics& to) {
  const TimeLedger& time = record.ledger.time;
  const double microseconds[kNumPhases] = {time.queue, time.transfer_in, time.compute, time.transfer_out,
                                           time.total};
  for (size_t phase = 0; phase < kNumPhases; ++phase) to.phases[phase].Observe(microseconds[phase] * 1e-6);

  const MemoryLedger& memory = record.ledger.memory;
  Add(copies_.payload_in, memory.input);
  Add(copies_.payload_out, memory.output);
  Add(copies_.host_out, memory.host_copies_out_bytes);
  Add(copies_.device_in, memory.transfers_to_device_bytes);
  Add(copies_.device_out, memory.transfers_from_device_bytes);
  Add(to.flops, static_cast<double>(record.ledger.flops));
  Add(to.hbm_read, static_cast<double>(record.ledger.traffic.hbm_read));
  Add(to.hbm_write, static_cast<double>(record.ledger.traffic.hbm_write));
  RaiseTo(to.workspace_peak, memory.workspace_peak);

  if (!record.leads_launch) return;
  to.batch_requests.Observe(record.ledger.choice.batch_requests);
  to.batch_sequences.Observe(static_cast<double>(record.ledger.choice.batch_sequences));
  Add(to.compute_seconds, time.compute * 1e-6);
}

void Metrics::CountRejection(const absl::Status& status) {
  std::string reason = GetErrorDetail(status).value_or(ErrorDetail{}).reason;
  if (reason.empty()) reason = absl::StatusCodeToString(status.code());
  const std::lock_guard lock(rejections_mutex_);
  if (rejections_.size() >= kMaxReasons && rejections_.count(reason) == 0) reason = kOtherReasons;
  ++rejections_[reason];
}

void Metrics::CountStream(absl::StatusCode code) {
  streams_[static_cast<size_t>(code)].fetch_add(1, std::memory_order_relaxed);
}

std::map<std::string, uint64_t> Metrics::rejections() const {
  const std::lock_guard lock(rejections_mutex_);
  return rejections_;
}

}  // namespace tessera
