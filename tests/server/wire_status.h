// What a client makes of the server's errors, as absl::Status with the server's own ErrorDetail.
#pragma once

#include <chrono>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "backend/core/error.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace tessera::testing {

inline absl::Status WithDetail(absl::StatusCode code, std::string message,
                               const google::rpc::Status& status) {
  ErrorDetail detail;
  bool found = false;
  for (const google::protobuf::Any& any : status.details()) {
    if (google::rpc::ErrorInfo info; any.UnpackTo(&info)) {
      found = true;
      detail.reason = info.reason();
      detail.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (google::rpc::RetryInfo retry; any.UnpackTo(&retry)) {
      found = true;
      detail.retry_after = std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 +
                                                     retry.retry_delay().nanos() / 1'000'000);
    }
  }
  return found ? MakeError(code, std::move(message), std::move(detail)) : absl::Status(code, message);
}

// Code, message and ErrorDetail; details that do not parse are dropped.
inline absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  return WithDetail(static_cast<absl::StatusCode>(status.code()), status.message(), status);
}

inline absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  return WithDetail(static_cast<absl::StatusCode>(status.error_code()), status.error_message(), details);
}

}  // namespace tessera::testing
