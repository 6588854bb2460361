#include "server/status_codec.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include "backend/core/error.h"
#include "google/rpc/error_details.pb.h"

namespace tessera {
namespace {

constexpr char kDomain[] = "tessera";

// The message travels twice (grpc-message, percent-encoded, and inside grpc-status-details-bin, base64), the
// metadata once: 3 * 1024 + (1024 + 1536) * 4 / 3 < 8 KiB, with room for the rest.
constexpr size_t kMaxMessageBytes = 1024;
constexpr size_t kMaxValueBytes = 256;
constexpr size_t kMaxMetadataBytes = 1536;

// `text` cut to `limit` bytes, never inside a UTF-8 sequence: proto3 strings must stay valid.
std::string Cut(std::string text, size_t limit) {
  if (text.size() <= limit) return text;
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  return text + "...";
}

google::rpc::ErrorInfo ToErrorInfo(const ErrorDetail& detail) {
  google::rpc::ErrorInfo info;
  info.set_reason(detail.reason);
  info.set_domain(kDomain);
  size_t bytes = 0;
  for (const auto& [key, value] : detail.metadata) {
    std::string cut = Cut(value, kMaxValueBytes);
    bytes += key.size() + cut.size();
    if (bytes > kMaxMetadataBytes) break;
    (*info.mutable_metadata())[key] = std::move(cut);
  }
  return info;
}

google::rpc::RetryInfo ToRetryInfo(std::chrono::milliseconds delay) {
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(delay.count() / 1000);
  info.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay.count() % 1000) * 1'000'000);
  return info;
}

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status result;
  result.set_code(static_cast<int32_t>(status.code()));
  result.set_message(Cut(std::string(status.message()), kMaxMessageBytes));
  if (const auto detail = GetErrorDetail(status)) {
    result.add_details()->PackFrom(ToErrorInfo(*detail));
    if (detail->retry_after) result.add_details()->PackFrom(ToRetryInfo(*detail->retry_after));
  }
  return result;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const google::rpc::Status details = ToRpcStatus(status);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), details.message(),
                      details.SerializeAsString());
}

}  // namespace tessera
