#include "client/cli/connection.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "client/cli/cli.h"

namespace tessera::client {
namespace {

constexpr char kDefaultServer[] = "127.0.0.1:50051";
constexpr double kMaxTimeoutSeconds = 1e6;  // keeps the deadline inside the clock's range

}  // namespace

ConnectionOptions::ConnectionOptions() {
  const char* from_environment = std::getenv("TESSERA_SERVER");
  server = from_environment != nullptr && *from_environment != '\0' ? from_environment : kDefaultServer;
}

void ConnectionOptions::Register(OptionTable& table) {
  table.Section("Server");
  table.Value("server", "ADDRESS", &server,
              absl::StrCat("HOST:PORT or unix:PATH; default $TESSERA_SERVER, else ", kDefaultServer));
  table.Value("timeout", "SECONDS", &timeout_seconds, "deadline of each call; default none");
}

absl::StatusOr<std::unique_ptr<Client>> ConnectionOptions::Connect() const {
  ClientOptions options;
  if (timeout_seconds) {
    if (!(*timeout_seconds > 0 && *timeout_seconds <= kMaxTimeoutSeconds)) {
      return UsageError(absl::StrCat("--timeout: expected seconds in (0, ", kMaxTimeoutSeconds, "], got ",
                                     *timeout_seconds));
    }
    options.call_timeout = std::chrono::milliseconds(static_cast<int64_t>(*timeout_seconds * 1000) + 1);
    options.connect_timeout = std::min(options.connect_timeout, *options.call_timeout);
  }
  auto client = Client::Connect(server, options);
  if (absl::IsInvalidArgument(client.status())) return UsageError(std::string(client.status().message()));
  if (!client.ok()) {
    return ServerError(absl::UnavailableError(absl::StrCat(
        std::string(client.status().message()), "; start one with 'tessera-server --listen=", server,
        "' or name another with --server")));
  }
  return client;
}

}  // namespace tessera::client
