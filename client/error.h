// Server errors as absl::Status, with what the server attached (google.rpc.ErrorInfo and RetryInfo) kept
// readable.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace tessera::client {

struct ErrorInfo {
  std::string reason;                           // UPPER_SNAKE_CASE, stable: "HEAD_COUNT_NOT_DIVISIBLE"
  std::string domain;                           // "tessera"
  std::map<std::string, std::string> metadata;  // "expected", "actual", "field", "limit", ...
};

// Same code and message; the details travel as payloads for the two readers below. Details that do not parse
// are dropped: an error about an error helps nobody.
absl::Status FromGrpcStatus(const grpc::Status& status);
absl::Status FromRpcStatus(const google::rpc::Status& status);

// What the server attached to an error; nullopt when it attached none.
std::optional<ErrorInfo> GetErrorInfo(const absl::Status& status);
// How long to wait before trying again.
std::optional<std::chrono::milliseconds> GetRetryDelay(const absl::Status& status);

}  // namespace tessera::client
