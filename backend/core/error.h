// Errors with a machine-readable detail: absl::Status plus a reason and metadata, which the server turns into
// google.rpc.ErrorInfo (and RetryInfo). This library knows no protobuf, so the detail travels as a Status
// payload.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace tessera {

struct ErrorDetail {
  // UPPER_SNAKE_CASE, stable for clients: "HEAD_COUNT_NOT_DIVISIBLE".
  std::string reason;
  // Always "expected" and "actual" where a value was refused; others as they help ("field", "limit",
  // "backend").
  std::map<std::string, std::string> metadata;
  // Set where trying again later may succeed.
  std::optional<std::chrono::milliseconds> retry_after;
};

// A status of `code` whose message is "<message>" and whose detail is attached.
absl::Status MakeError(absl::StatusCode code, std::string message, ErrorDetail detail);

// INVALID_ARGUMENT, "<field>: expected <expected>, got <actual>", metadata {field, expected, actual}.
absl::Status InvalidArgument(std::string reason, const std::string& field, const std::string& expected,
                             const std::string& actual);

// The detail of `status`; nullopt when it carries none.
std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status);

// `status` with "<prefix>: " before its message, code and detail kept.
absl::Status Prefixed(const std::string& prefix, const absl::Status& status);

}  // namespace tessera

// Propagation, and nothing else (DESIGN 7.12).
#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)
#define TESSERA_RETURN_IF_ERROR(expr)                                   \
  do {                                                                  \
    if (::absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)
#define TESSERA_ASSIGN_OR_RETURN(lhs, expr) \
  TESSERA_ASSIGN_OR_RETURN_IMPL(TESSERA_CONCAT(status_or_, __LINE__), lhs, expr)
#define TESSERA_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expr) \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = std::move(statusor).value()
