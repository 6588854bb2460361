// Propagation of absl::Status in client code, and nothing else (DESIGN 7.12). The server's macros live with
// its own error type in backend/core, which the client does not depend on.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TESSERA_TRY(expr)                                               \
  do {                                                                  \
    if (::absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

#define TESSERA_TRY_CONCAT_INNER(a, b) a##b
#define TESSERA_TRY_CONCAT(a, b) TESSERA_TRY_CONCAT_INNER(a, b)
#define TESSERA_TRY_ASSIGN(lhs, expr) \
  TESSERA_TRY_ASSIGN_IMPL(TESSERA_TRY_CONCAT(try_status_or_, __LINE__), lhs, expr)
#define TESSERA_TRY_ASSIGN_IMPL(statusor, lhs, expr)       \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = std::move(statusor).value()
