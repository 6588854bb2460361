#include "client/error.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"

namespace tessera::client {
namespace {

constexpr char kErrorInfoType[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfoType[] = "type.googleapis.com/google.rpc.RetryInfo";

absl::Status MakeStatus(int code, const std::string& message) {
  // Both enums number the canonical codes alike; a number outside them must not become OK or undefined.
  const bool known = code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown, message);
}

void AttachDetails(const google::rpc::Status& rpc_status, absl::Status& status) {
  for (const google::protobuf::Any& detail : rpc_status.details()) {
    if (detail.Is<google::rpc::ErrorInfo>()) status.SetPayload(kErrorInfoType, absl::Cord(detail.value()));
    if (detail.Is<google::rpc::RetryInfo>()) status.SetPayload(kRetryInfoType, absl::Cord(detail.value()));
  }
}

template <typename Message>
std::optional<Message> ReadPayload(const absl::Status& status, const char* type) {
  auto payload = status.GetPayload(type);
  Message message;
  if (!payload || !message.ParseFromString(std::string(*payload))) return std::nullopt;
  return message;
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result = MakeStatus(status.error_code(), status.error_message());
  google::rpc::Status rpc_status;
  if (rpc_status.ParseFromString(status.error_details())) AttachDetails(rpc_status, result);
  return result;
}

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  absl::Status result = MakeStatus(status.code(), status.message());
  AttachDetails(status, result);
  return result;
}

std::optional<ErrorInfo> GetErrorInfo(const absl::Status& status) {
  const auto message = ReadPayload<google::rpc::ErrorInfo>(status, kErrorInfoType);
  if (!message) return std::nullopt;
  return ErrorInfo{
      message->reason(), message->domain(), {message->metadata().begin(), message->metadata().end()}};
}

std::optional<std::chrono::milliseconds> GetRetryDelay(const absl::Status& status) {
  const auto message = ReadPayload<google::rpc::RetryInfo>(status, kRetryInfoType);
  if (!message || !message->has_retry_delay()) return std::nullopt;
  const auto& delay = message->retry_delay();
  // A day is more than any server means: bounds the arithmetic whatever the message says.
  constexpr int64_t kMaxSeconds = 86400;
  const int64_t seconds = std::min<int64_t>(std::max<int64_t>(delay.seconds(), 0), kMaxSeconds);
  return std::chrono::milliseconds(seconds * 1000 + std::max(delay.nanos(), 0) / 1'000'000);
}

}  // namespace tessera::client
