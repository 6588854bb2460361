// tessera health: grpc.health.v1 for people and for container probes.
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/options.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

std::string StatusName(HealthStatus status) {
  return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(status);
}

// Prints each change, at once, until the server goes away.
absl::Status Watch(const Client& client, const std::string& service, Console& console) {
  const absl::Status ended = client.WatchHealth(service, [&](HealthStatus status) {
    console.out << StatusName(status) << std::endl;
    return true;
  });
  if (ended.ok()) return ServerError(absl::UnavailableError("the server ended the watch"));
  return ServerError(ended);
}

}  // namespace

absl::StatusOr<ExitCode> RunHealth(const Arguments& arguments, Console& console) {
  bool watch = false;
  std::string service;
  ConnectionOptions connection;
  OptionTable table(
      "health", "",
      "Asks the server's health (grpc.health.v1) and prints it. Exits with 0 only when it is SERVING,\n"
      "1 when it is not, 3 when the server cannot be reached: fit for a container's probe.");
  table.Section("Check");
  table.Value("service", "NAME", &service,
              "ask about one service, such as tessera.v1.AttentionService; default all");
  table.Switch("watch", &watch, "print the status, and then every change, until interrupted");
  connection.Register(table);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, connection.Connect());
  if (watch) return Watch(*client, service, console);
  const absl::StatusOr<HealthStatus> status = client->Health(service);
  if (!status.ok()) return ServerError(status.status());
  console.out << StatusName(*status) << "\n";
  return *status == grpc::health::v1::HealthCheckResponse::SERVING ? ExitCode::kOk : ExitCode::kFailure;
}

}  // namespace tessera::client
