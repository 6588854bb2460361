// One server address under load, and its connections.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/client.h"
#include "grpcpp/channel.h"

namespace tessera::load {

class Target {
 public:
  // Connects `channels` times, each a connection of its own. UNAVAILABLE when nobody answers.
  static absl::StatusOr<std::unique_ptr<Target>> Connect(const std::string& address, int channels);

  const std::string& address() const { return address_; }
  // "unix" or "tcp".
  const char* transport() const;
  const std::vector<std::shared_ptr<grpc::Channel>>& channels() const { return channels_; }
  // For everything that is not load: server info, the oracle.
  const client::Client& client() const { return *client_; }

 private:
  Target(std::string address, std::unique_ptr<client::Client> client);

  const std::string address_;
  std::unique_ptr<client::Client> client_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
};

}  // namespace tessera::load
