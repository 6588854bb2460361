#include "backend/core/arena.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/core/saturating.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, size) (static_cast<void>(begin), static_cast<void>(size))
#define ASAN_UNPOISON_MEMORY_REGION(begin, size) (static_cast<void>(begin), static_cast<void>(size))
#endif

namespace tessera {
namespace {

constexpr int64_t kAlignment = 64;

absl::Status OutOfMemory(const Device& device, int64_t bytes, const absl::Status& cause) {
  ErrorDetail detail = GetErrorDetail(cause).value_or(ErrorDetail{});
  detail.reason = "DEVICE_MEMORY";
  detail.metadata.try_emplace("expected", "free device memory");
  detail.metadata["actual"] = absl::StrCat(bytes, " bytes needed");
  detail.metadata["device"] = device.id();
  if (!detail.retry_after) detail.retry_after = std::chrono::milliseconds(500);
  return MakeError(
      absl::StatusCode::kResourceExhausted,
      absl::StrCat(device.id(), ": no memory for a workspace of ", bytes, " bytes: ", cause.message()),
      std::move(detail));
}

}  // namespace

Arena::Arena(Device& device, MemoryKind kind, int64_t limit_bytes)
    : device_(device), kind_(kind), limit_(limit_bytes) {}

Arena::~Arena() { Release(); }

absl::Status Arena::Begin(int64_t bytes) {
  announced_ = 0;
  used_ = 0;
  if (bytes < 0) return InvalidArgument("WORKSPACE_INVALID", "workspace", ">= 0 bytes", absl::StrCat(bytes));
  const int64_t rounded = RoundUp(bytes, kAlignment);
  if (bytes > limit_ || rounded > limit_) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("workspace: expected at most ", limit_, " bytes, got ", bytes),
                     {.reason = "WORKSPACE_LIMIT",
                      .metadata = {{"limit", "workspace_bytes"},
                                   {"expected", absl::StrCat("at most ", limit_, " bytes")},
                                   {"actual", absl::StrCat(bytes, " bytes")}},
                      .retry_after = std::nullopt});
  }
  if (rounded > capacity_bytes()) {
    Release();  // first, so that old and new never exist together
    absl::StatusOr<DeviceBuffer> grown = DeviceBuffer::Create(device_, kind_, static_cast<size_t>(rounded));
    if (absl::IsResourceExhausted(grown.status())) return OutOfMemory(device_, rounded, grown.status());
    if (!grown.ok()) return grown.status();
    buffer_ = *std::move(grown);
  }
  if (poisons()) ASAN_POISON_MEMORY_REGION(buffer_.data(), buffer_.size());
  announced_ = rounded;
  return absl::OkStatus();
}

absl::StatusOr<void*> Arena::Allocate(int64_t bytes) {
  const int64_t left = announced_ - used_;
  if (bytes < 0 || bytes > left) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     absl::StrCat("workspace block: expected at most ", left, " bytes (", announced_,
                                  " announced, ", used_, " used), got ", bytes),
                     {.reason = "WORKSPACE_OVERRUN",
                      .metadata = {{"expected", absl::StrCat("at most ", left, " bytes")},
                                   {"actual", absl::StrCat(bytes, " bytes")}},
                      .retry_after = std::nullopt});
  }
  std::byte* block = buffer_.data() + used_;
  used_ += RoundUp(bytes, kAlignment);  // announced_ is a multiple of the alignment
  if (poisons()) ASAN_UNPOISON_MEMORY_REGION(block, static_cast<size_t>(bytes));
  return block;
}

bool Arena::poisons() const { return kind_ == TESSERA_MEMORY_PINNED || device_.host_accessible(); }

void Arena::Release() {
  if (poisons()) ASAN_UNPOISON_MEMORY_REGION(buffer_.data(), buffer_.size());
  buffer_.Reset();
  announced_ = 0;
  used_ = 0;
}

}  // namespace tessera
