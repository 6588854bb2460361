#include "server/shadow_verifier.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "server/guarded.h"
#include "server/log.h"
#include "server/shadow_replay.h"
#include "server/wire_message.h"

namespace tessera {
namespace {

constexpr char kThread[] = "shadow verification";
constexpr int kLowestPriority = 19;  // nice(2)

// Requests are numbered; equal shares of all number ranges are sampled (the mixer of SplitMix64).
uint64_t Mix(uint64_t number) {
  number += 0x9e3779b97f4a7c15;
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
  number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
  return number ^ (number >> 31);
}

bool HasOutput(const DecodedRequest& request) {
  return std::any_of(request.outputs.begin(), request.outputs.end(),
                     [](const OutputSpec& output) { return output.kind == v1::OUTPUT_KIND_OUTPUT; });
}

// What the entry keeps in memory, and what it will take beside that: the reply once more, parsed.
int64_t BytesOf(const DecodedRequest& request) { return request.input_bytes + 2 * request.output_bytes; }

// Of what went in and what came out, the one with fewer bits of mantissa: it says what error to expect.
DType CoarserDType(const AttentionProblem& problem) {
  for (const DType dtype : {TESSERA_DTYPE_FP8_E4M3, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP16}) {
    if (problem.q.dtype == dtype || problem.o.dtype == dtype) return dtype;
  }
  return problem.q.dtype;
}

std::string HeadDim(const AttentionProblem& problem) {
  if (problem.head_dim_qk == problem.head_dim_v) return absl::StrCat(problem.head_dim_qk);
  return absl::StrCat(problem.head_dim_qk, "/", problem.head_dim_v);
}

}  // namespace

ShadowVerifier::ShadowVerifier(const ShadowOptions& options, int64_t max_workspace_bytes,
                               std::unique_ptr<BackendRegistry> verifiers, ShadowMetrics& metrics)
    : options_(options),
      max_workspace_bytes_(std::min(max_workspace_bytes, options.max_bytes)),
      verifiers_(std::move(verifiers)),
      metrics_(metrics),
      thread_([this] { Loop(); }) {}

ShadowVerifier::~ShadowVerifier() {
  Stop();
  thread_.join();
}

void ShadowVerifier::Offer(std::unique_ptr<Job> job, const grpc::ByteBuffer& reply) {
  if (!IsSampled(*job) || !HasOutput(job->request)) return;
  const absl::Status taken = Guarded(kThread, [&] { return Take(std::move(job), reply); });
  if (!taken.ok()) metrics_.Count(kShadowDropped);
}

absl::Status ShadowVerifier::Take(std::unique_ptr<Job> job, const grpc::ByteBuffer& reply) {
  Backend* const standard = StandardFor(*job->backend);
  if (standard == nullptr) return absl::OkStatus();
  const int64_t bytes = BytesOf(job->request);
  const std::lock_guard lock(mutex_);
  const bool fits =
      static_cast<int>(entries_.size()) < options_.max_requests && bytes <= options_.max_bytes - held_bytes_;
  if (!fits || stopping_) return absl::ResourceExhaustedError("no room");
  entries_.push_back({.job = std::move(job), .reply = reply, .standard = standard, .bytes = bytes});
  held_bytes_ += bytes;
  metrics_.AddPendingBytes(bytes);
  changed_.notify_one();
  return absl::OkStatus();
}

void ShadowVerifier::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  DropAll();
  changed_.notify_one();
}

void ShadowVerifier::DropAll() {
  for (const Entry& entry : entries_) {
    held_bytes_ -= entry.bytes;
    metrics_.AddPendingBytes(-entry.bytes);
    metrics_.Count(kShadowDropped);
  }
  entries_.clear();
}

bool ShadowVerifier::IsSampled(const Job& job) const {
  constexpr double kNumbers = 0x1p64;
  return static_cast<double>(Mix(job.context.number)) < options_.rate * kNumbers;
}

Backend* ShadowVerifier::StandardFor(const Backend& served) const {
  const std::string& device = served.device().id();
  const std::string family = device.substr(0, device.find(':'));
  for (const std::string& name : {family + "_standard", std::string("cpu_standard")}) {
    if (served.info().name == name) return nullptr;
    if (const auto found = verifiers_->Find(name); found.ok()) return *found;
  }
  return nullptr;
}

void ShadowVerifier::Loop() {
  // Linux keeps a priority for each thread; those that the replay starts inherit it.
  setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLowestPriority);
  while (true) {
    Entry entry;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !entries_.empty(); });
      if (stopping_) return;
      entry = std::move(entries_.front());
      entries_.pop_front();
    }
    Guarded(kThread, [&] { return Verify(entry); }).IgnoreError();
    const int64_t bytes = std::exchange(entry, {}).bytes;
    const std::lock_guard lock(mutex_);
    held_bytes_ -= bytes;
    metrics_.AddPendingBytes(-bytes);
  }
}

absl::Status ShadowVerifier::Verify(const Entry& entry) {
  const Job& job = *entry.job;
  const std::string& backend = job.backend->info().name;
  const absl::StatusOr<double> error = Guarded(kThread, [&] { return Replay(entry); });
  if (error.ok()) {
    const AttentionProblem& problem = job.request.problem;
    metrics_.CountVerified(
        {.backend = backend, .dtype = DTypeName(CoarserDType(problem)), .head_dim = HeadDim(problem)},
        *error);
    Log().debug("event=shadow_verified request={} backend={} relative_error={:.3g}", job.context.number,
                backend, *error);
    return absl::OkStatus();
  }
  const bool is_dropped = absl::IsCancelled(error.status()) || absl::IsOutOfRange(error.status());
  metrics_.Count(is_dropped ? kShadowDropped : kShadowFailed);
  if (is_dropped) return absl::OkStatus();
  Log().warn("event=shadow_failed request={} backend={} standard={} reason={}", job.context.number, backend,
             entry.standard->info().name, Quoted(error.status().message()));
  return absl::OkStatus();
}

absl::StatusOr<double> ShadowVerifier::Replay(const Entry& entry) {
  v1::AttendResponse reply;
  TESSERA_RETURN_IF_ERROR(ParseMessage(entry.reply, INT32_MAX, reply));
  for (const v1::OutputTensor& output : reply.outputs()) {
    if (output.kind() != v1::OUTPUT_KIND_OUTPUT) continue;
    const std::string& bytes = reply.raw(static_cast<int>(output.tensor().raw_index()));
    // Made anew for each request, so that nothing is kept while none comes.
    TESSERA_ASSIGN_OR_RETURN(const auto replay, ShadowReplay::Create(*entry.standard, max_workspace_bytes_));
    return replay->RelativeError(entry.job->request, reinterpret_cast<const std::byte*>(bytes.data()),
                                 entry.job->context.number, stopping_);
  }
  return absl::InternalError("the reply has no output");
}

}  // namespace tessera
