#include "client/load/target.h"

#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace tessera::load {
namespace {

constexpr std::chrono::seconds kConnectTimeout{10};

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // Otherwise channels to one address share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A server that restarts under load is met again within the second.
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

Target::Target(std::string address, std::unique_ptr<client::Client> client)
    : address_(std::move(address)), client_(std::move(client)) {}

absl::StatusOr<std::unique_ptr<Target>> Target::Connect(const std::string& address, int channels) {
  TESSERA_TRY_ASSIGN(auto client, client::Client::Connect(address));
  std::unique_ptr<Target> target(new Target(address, std::move(client)));
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  for (int i = 0; i < channels; ++i) {
    std::shared_ptr<grpc::Channel> channel = MakeChannel(address);
    if (!channel->WaitForConnected(deadline)) {
      return absl::UnavailableError(absl::StrCat(address, ": connection ", i + 1, " of ", channels,
                                                 " was not made within ", kConnectTimeout.count(), " s"));
    }
    target->channels_.push_back(std::move(channel));
  }
  return target;
}

const char* Target::transport() const { return absl::StartsWith(address_, "unix:") ? "unix" : "tcp"; }

}  // namespace tessera::load
