#include "server/log.h"

#include <algorithm>
#include <iterator>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace tessera {
namespace {

// A logger of our own, not in spdlog's registry: a process that embeds a Server keeps its own loggers
// untouched.
spdlog::logger* MakeLogger() {
  auto* logger = new spdlog::logger("tessera", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%f%z level=%l %v");
  logger->flush_on(spdlog::level::warn);
  return logger;
}

}  // namespace

spdlog::logger& Log() {
  // Never destroyed: threads may still log while the process exits.
  static spdlog::logger* const logger = MakeLogger();
  return *logger;
}

absl::Status SetLogLevel(const std::string& level) {
  constexpr const char* kLevels[] = {"trace", "debug", "info", "warning", "error", "off"};
  if (std::find(std::begin(kLevels), std::end(kLevels), level) == std::end(kLevels)) {
    return InvalidArgument("LOG_LEVEL_INVALID", "log level", "trace, debug, info, warning, error or off",
                           Quoted(level));
  }
  Log().set_level(spdlog::level::from_str(level));
  return absl::OkStatus();
}

std::string Quoted(absl::string_view text, size_t max_bytes) {
  const bool cut = text.size() > max_bytes;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, max_bytes)), cut ? "...\"" : "\"");
}

}  // namespace tessera
