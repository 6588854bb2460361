#include "backend/core/error.h"

#include <charconv>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// The payload is a sequence of netstrings ("<length>:<bytes>"): the reason, the retry hint in milliseconds
// (empty: none), then key and value of each metadata entry.
constexpr char kTypeUrl[] = "tessera/error_detail";

void AppendField(std::string& out, const std::string& field) {
  absl::StrAppend(&out, field.size(), ":", field);
}

// Takes the next field off the front of `in`; false when there is none or it is malformed.
bool TakeField(std::string_view& in, std::string& field) {
  size_t length = 0;
  const auto [end, error] = std::from_chars(in.data(), in.data() + in.size(), length);
  if (error != std::errc()) return false;
  in.remove_prefix(static_cast<size_t>(end - in.data()));
  if (in.empty() || in.front() != ':' || in.size() - 1 < length) return false;
  field.assign(in.substr(1, length));
  in.remove_prefix(1 + length);
  return true;
}

std::string Serialize(const ErrorDetail& detail) {
  std::string out;
  AppendField(out, detail.reason);
  AppendField(out, detail.retry_after ? absl::StrCat(int64_t{detail.retry_after->count()}) : "");
  for (const auto& [key, value] : detail.metadata) {
    AppendField(out, key);
    AppendField(out, value);
  }
  return out;
}

std::optional<ErrorDetail> Parse(std::string_view in) {
  ErrorDetail detail;
  std::string retry;
  if (!TakeField(in, detail.reason) || !TakeField(in, retry)) return std::nullopt;
  if (!retry.empty()) {
    int64_t milliseconds = 0;
    const auto [end, error] = std::from_chars(retry.data(), retry.data() + retry.size(), milliseconds);
    if (error != std::errc() || end != retry.data() + retry.size()) return std::nullopt;
    detail.retry_after = std::chrono::milliseconds(milliseconds);
  }
  while (!in.empty()) {
    std::string key, value;
    if (!TakeField(in, key) || !TakeField(in, value)) return std::nullopt;
    detail.metadata.emplace(std::move(key), std::move(value));
  }
  return detail;
}

}  // namespace

absl::Status MakeError(absl::StatusCode code, std::string message, ErrorDetail detail) {
  absl::Status status(code, message);
  status.SetPayload(kTypeUrl, absl::Cord(Serialize(detail)));
  return status;
}

absl::Status InvalidArgument(std::string reason, const std::string& field, const std::string& expected,
                             const std::string& actual) {
  return MakeError(absl::StatusCode::kInvalidArgument,
                   absl::StrCat(field, ": expected ", expected, ", got ", actual),
                   {.reason = std::move(reason),
                    .metadata = {{"field", field}, {"expected", expected}, {"actual", actual}},
                    .retry_after = std::nullopt});
}

std::optional<ErrorDetail> GetErrorDetail(const absl::Status& status) {
  const auto payload = status.GetPayload(kTypeUrl);
  if (!payload.has_value()) return std::nullopt;
  return Parse(std::string(*payload));
}

absl::Status Prefixed(const std::string& prefix, const absl::Status& status) {
  if (status.ok()) return status;
  absl::Status prefixed(status.code(), absl::StrCat(prefix, ": ", status.message()));
  status.ForEachPayload(
      [&prefixed](absl::string_view url, const absl::Cord& payload) { prefixed.SetPayload(url, payload); });
  return prefixed;
}

}  // namespace tessera
