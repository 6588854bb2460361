#include "backend/core/plugin_instance.h"

#include <array>
#include <exception>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

constexpr size_t kMessageCapacity = 1024;

bool IsKnown(tessera_code code) {
  switch (code) {
    case TESSERA_OK:
    case TESSERA_INVALID_ARGUMENT:
    case TESSERA_NOT_FOUND:
    case TESSERA_RESOURCE_EXHAUSTED:
    case TESSERA_FAILED_PRECONDITION:
    case TESSERA_OUT_OF_RANGE:
    case TESSERA_UNIMPLEMENTED:
    case TESSERA_INTERNAL:
    case TESSERA_UNAVAILABLE:
      return true;
  }
  return false;
}

absl::Status PluginFailed(const std::string& name, const char* function, tessera_code code,
                          const std::string& text) {
  const bool known = IsKnown(code);
  const std::string message = text.empty() ? "failed without a message" : text;
  return MakeError(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kInternal,
                   absl::StrCat(name, ": ", function, ": ",
                                known ? "" : absl::StrCat("unknown status code ", code, ": "), message),
                   {.reason = "PLUGIN_FAILED",
                    .metadata = {{"plugin", name}, {"function", function}, {"code", absl::StrCat(code)}},
                    .retry_after = std::nullopt});
}

}  // namespace

std::string PluginText(const char* text, size_t capacity) {
  if (text == nullptr) return "";
  std::string result(text, strnlen(text, capacity));
  for (char& c : result) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return result;
}

absl::Status PluginThrew(const std::string& name, const char* function, const std::string& what) {
  return MakeError(absl::StatusCode::kInternal,
                   absl::StrCat(name, ": ", function, " threw a C++ exception: ", what),
                   {.reason = "PLUGIN_THREW",
                    .metadata = {{"plugin", name}, {"function", function}, {"exception", what}},
                    .retry_after = std::nullopt});
}

absl::Status PluginInvalid(const std::string& reason, const std::string& name, const char* function,
                           const std::string& field, const std::string& expected, const std::string& actual) {
  return MakeError(
      absl::StatusCode::kInternal,
      absl::StrCat(name, ": ", function, " gave ", field, ": expected ", expected, ", got ", actual),
      {.reason = reason,
       .metadata = {{"plugin", name}, {"field", field}, {"expected", expected}, {"actual", actual}},
       .retry_after = std::nullopt});
}

absl::Status CallPlugin(const std::string& name, const char* function,
                        absl::FunctionRef<tessera_code(tessera_message*)> call) {
  std::array<char, kMessageCapacity> text{};
  tessera_message message{text.data(), text.size()};
  tessera_code code;
  try {
    code = call(&message);
  } catch (const std::exception& error) {
    return PluginThrew(name, function, PluginText(error.what(), kMessageCapacity));
  } catch (...) {
    return PluginThrew(name, function, "of unknown type");
  }
  if (code == TESSERA_OK) return absl::OkStatus();
  return PluginFailed(name, function, code, PluginText(text.data(), text.size()));
}

void CallPluginQuietly(absl::FunctionRef<void()> call) noexcept {
  try {
    call();
  } catch (...) {
  }
}

}  // namespace tessera
