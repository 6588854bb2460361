#include "server/admission.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

// A queue that is full now has room after about one launch; a server that drains is replaced within seconds.
constexpr std::chrono::milliseconds kRetryWhenFull(100);
constexpr std::chrono::milliseconds kRetryWhenDraining(1000);

absl::Status OverLimit(const std::string& reason, const std::string& what, const std::string& limit_flag,
                       int64_t limit, int64_t actual, std::map<std::string, std::string> metadata = {}) {
  metadata["limit"] = limit_flag;
  metadata["expected"] = absl::StrCat("at most ", limit);
  metadata["actual"] = absl::StrCat(actual);
  return MakeError(absl::StatusCode::kResourceExhausted,
                   absl::StrCat(what, ": expected at most ", limit, " (--", limit_flag, "), got ", actual),
                   {.reason = reason, .metadata = std::move(metadata), .retry_after = std::nullopt});
}

}  // namespace

absl::StatusOr<Admission::Ticket> Admission::EnterRequest() { return Enter(true); }
absl::StatusOr<Admission::Ticket> Admission::EnterStream() { return Enter(false); }

absl::StatusOr<Admission::Ticket> Admission::Enter(bool is_request) {
  std::lock_guard lock(mutex_);
  if (closed_) return DrainingError();
  if (is_request && requests_ >= limits_.max_concurrent_requests) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("too many requests: ", requests_,
                                  " are in flight, the limit (--max-concurrent-requests); try again later"),
                     {.reason = "TOO_MANY_REQUESTS",
                      .metadata = {{"limit", "max-concurrent-requests"},
                                   {"expected", absl::StrCat("at most ", limits_.max_concurrent_requests)},
                                   {"actual", absl::StrCat(requests_ + 1)}},
                      .retry_after = kRetryWhenFull});
  }
  ++(is_request ? requests_ : streams_);
  return Ticket(this, is_request);
}

void Admission::Leave(bool is_request) {
  std::lock_guard lock(mutex_);
  --(is_request ? requests_ : streams_);
  if (closed_) changed_.notify_all();
}

absl::Status Admission::CheckInput(int64_t input_bytes) const {
  if (input_bytes <= limits_.max_message_bytes) return absl::OkStatus();
  return OverLimit("MESSAGE_TOO_LARGE", "bytes of all inputs", "max-message-bytes", limits_.max_message_bytes,
                   input_bytes);
}

absl::Status Admission::CheckSize(const ProblemSize& size, int64_t output_bytes) const {
  int64_t tokens = 0;
  if (__builtin_add_overflow(size.q_tokens, size.kv_tokens, &tokens) || tokens > limits_.max_batch_tokens) {
    return OverLimit("BATCH_TOKENS_LIMIT", "q tokens plus kv tokens", "max-batch-tokens",
                     limits_.max_batch_tokens, tokens);
  }
  if (output_bytes > limits_.max_message_bytes) {
    return OverLimit("OUTPUT_LIMIT", "bytes of all outputs", "max-message-bytes", limits_.max_message_bytes,
                     output_bytes);
  }
  return absl::OkStatus();
}

absl::Status Admission::CheckWorkspace(const Backend& backend, const Plan& plan) const {
  if (plan.workspace_bytes <= limits_.max_workspace_bytes) return absl::OkStatus();
  const std::string& name = backend.info().name;
  return OverLimit("WORKSPACE_LIMIT", absl::StrCat(name, ": workspace bytes"), "max-workspace-bytes",
                   limits_.max_workspace_bytes, plan.workspace_bytes, {{"backend", name}});
}

void Admission::CloseDoor() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

bool Admission::door_closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

void Admission::WaitUntilDoorClosed() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return closed_; });
}

bool Admission::WaitUntilEmpty(std::chrono::steady_clock::time_point deadline) const {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, deadline, [this] { return is_empty() || given_up_; });
  return is_empty();
}

void Admission::WaitForEverybody() const {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return is_empty(); });
}

int Admission::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

int Admission::streams() const {
  std::lock_guard lock(mutex_);
  return streams_;
}

void Admission::GiveUp() {
  std::lock_guard lock(mutex_);
  given_up_ = true;
  changed_.notify_all();
}

absl::Status DrainingError() {
  return MakeError(absl::StatusCode::kUnavailable,
                   "the server is shutting down and takes no new work; try another one, or later",
                   {.reason = "DRAINING",
                    .metadata = {{"expected", "a serving server"}, {"actual", "a draining one"}},
                    .retry_after = kRetryWhenDraining});
}

}  // namespace tessera
