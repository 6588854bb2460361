// How tests say which error they expect.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "backend/core/error.h"
#include "gtest/gtest.h"

namespace tessera::testing {

// The value of `key` in the status's error detail; "" when there is none.
inline std::string ErrorMetadata(const absl::Status& status, const std::string& key) {
  const auto detail = GetErrorDetail(status);
  if (!detail) return "";
  const auto entry = detail->metadata.find(key);
  return entry == detail->metadata.end() ? "" : entry->second;
}

// `status` has this code and reason, and, as every refusal must, says what was expected and what came
// instead.
inline void ExpectError(const absl::Status& status, absl::StatusCode code, const std::string& reason) {
  EXPECT_EQ(status.code(), code) << status;
  const auto detail = GetErrorDetail(status);
  ASSERT_TRUE(detail.has_value()) << status << " carries no detail";
  EXPECT_EQ(detail->reason, reason) << status;
  EXPECT_NE(ErrorMetadata(status, "expected"), "") << status;
  EXPECT_NE(ErrorMetadata(status, "actual"), "") << status;
}

}  // namespace tessera::testing
