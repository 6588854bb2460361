// The HTTP endpoint that Prometheus scrapes. Its .cc is the one file that knows prometheus-cpp.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "backend/core/registry.h"
#include "server/listen_address.h"
#include "server/metrics.h"

namespace tessera {

// What the server is doing at the moment.
struct ServerLoad {
  int requests_in_flight = 0;
  int open_streams = 0;
  bool draining = false;
  std::vector<std::pair<std::string, size_t>> waiting;  // requests that wait, by the id of their device
};

class MetricsEndpoint {
 public:
  // Serves GET /metrics at `address` (no Unix socket) from threads of its own; each scrape calls `read_load`
  // and asks the devices of `registry` for their memory. What it reads outlives it. INVALID_ARGUMENT for a
  // Unix socket, UNAVAILABLE for an address that cannot be had.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const ListenAddress& address,
                                                                const Metrics& metrics,
                                                                const BackendRegistry& registry,
                                                                std::function<ServerLoad()> read_load);
  // Stops serving; no scrape is under way afterwards.
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  // "127.0.0.1:41234", with the port that was bound.
  const std::string& address() const { return address_; }

 private:
  class Impl;
  MetricsEndpoint(std::unique_ptr<Impl> impl, std::string address);

  std::unique_ptr<Impl> impl_;
  std::string address_;
};

}  // namespace tessera
