#include "server/library_logs.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "server/log.h"

namespace tessera {
namespace {

// gRPC nests errors: the reason, such as "Address already in use", comes last.
constexpr size_t kMaxMessageBytes = 4096;

void LogLine(const char* library, bool is_fatal, const char* file, int line, absl::string_view message) {
  const auto level = is_fatal ? spdlog::level::critical : spdlog::level::debug;
  if (!Log().should_log(level)) return;
  Log().log(level, "event=library_log library={} source={}:{} message={}", library, file, line,
            Quoted(message, kMaxMessageBytes));
}

void OnGrpc(gpr_log_func_args* args) {
  // GPR_ASSERT says this as an ordinary error, and aborts.
  const bool is_fatal = absl::StartsWith(args->message, "assertion failed");
  LogLine("grpc", is_fatal, args->file, args->line, args->message);
}

void OnProtobuf(google::protobuf::LogLevel level, const char* file, int line, const std::string& message) {
  LogLine("protobuf", level == google::protobuf::LOGLEVEL_FATAL, file, line, message);
}

}  // namespace

void CaptureLibraryLogs() {
  gpr_set_log_function(OnGrpc);
  google::protobuf::SetLogHandler(OnProtobuf);
}

}  // namespace tessera
