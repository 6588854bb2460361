// The gRPC server: listens, serves AttentionService, health and reflection, and drains.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "server/options.h"

namespace tessera {

// Thread-safe.
class Server {
 public:
  // Binds, starts all threads and serves. INVALID_ARGUMENT for options that make no sense, a non-loopback
  // address without `insecure` among them; `verifiers`: the backends of shadow verification, which must be
  // there when options.shadow.rate is not 0, see ShadowVerifier; ALREADY_EXISTS, UNAVAILABLE for an address
  // that cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       std::unique_ptr<BackendRegistry> registry,
                                                       std::unique_ptr<BackendRegistry> verifiers = nullptr);
  // Gives up what is still in flight (waiting only for launches that run) and stops.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // As clients dial them, with the ports that were bound: "127.0.0.1:41234", "unix:/run/tessera.sock".
  const std::vector<std::string>& addresses() const;
  // Where metrics are served, as "127.0.0.1:41234"; empty where they are not.
  std::string metrics_address() const;

  // Health turns NOT_SERVING, new requests get UNAVAILABLE, what is in flight goes on. Returns at once.
  // Idempotent.
  void RequestDrain();
  // Gives up requests in flight: those that wait get UNAVAILABLE. For a drain that must end now. Returns at
  // once.
  void Abort();
  // Waits until a drain was requested and is over: all requests answered and the listeners closed (true), or
  // given up after drain_timeout or Abort (false; a launch may still be running).
  bool Wait();
  // RequestDrain and Wait.
  bool Drain();

  // Whether a device has failed for good (Device::Health). The server then drains by itself, as RequestDrain
  // does: requests for that device get UNAVAILABLE, reason DEVICE_LOST, those on other devices complete. The
  // process should end, and be started anew: a lost device does not come back to it.
  bool device_lost() const;

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
