// --server and --timeout, and the connection they ask for.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "client/cli/options.h"
#include "client/client.h"

namespace tessera::client {

struct ConnectionOptions {
  ConnectionOptions();  // $TESSERA_SERVER, else 127.0.0.1:50051

  std::string server;
  std::optional<double> timeout_seconds;

  void Register(OptionTable& table);
  // A server error (cli.h) that says how to start one when nobody answers.
  absl::StatusOr<std::unique_ptr<Client>> Connect() const;
};

}  // namespace tessera::client
