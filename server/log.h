// The server's log: spdlog to stderr, one event a line, "event key=value ...".
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "spdlog/logger.h"

namespace tessera {

// Thread-safe; warnings and errors are flushed at once.
spdlog::logger& Log();

// "trace", "debug", "info", "warning", "error" or "off"; INVALID_ARGUMENT otherwise.
absl::Status SetLogLevel(const std::string& level);

// `text` in double quotes with quotes, backslashes and all but printable ASCII escaped, cut at `max_bytes`:
// what a client sent cannot forge or break a log line.
std::string Quoted(absl::string_view text, size_t max_bytes = 256);

}  // namespace tessera
