// The server's own count of requests, from its Prometheus endpoint, and how it compares with the client's.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "client/load/tally.h"

namespace tessera::load {

// Requests by status code name.
using CountsByCode = std::map<std::string, int64_t>;

// The Attend requests in a scrape: the sum over backends of tessera_requests_total{method="Attend",...}.
CountsByCode ParseRequestsTotal(const std::string& exposition);

// Scrapes http://HOST:PORT/metrics. INVALID_ARGUMENT for another form of address, UNAVAILABLE when nobody
// answers or the answer is no 200.
absl::StatusOr<CountsByCode> ReadRequestsTotal(const std::string& host_port);

// Of a whole run, warm-up included.
struct TotalsComparison {
  CountsByCode client;     // answered by the server
  CountsByCode server;     // what it counted in the meantime
  int64_t unanswered = 0;  // sent, and ended by deadline, connection or the end of the run
  // Of the unanswered, those that the server counted; the others never reached it. Less than 0 where the
  // server counted fewer requests than it answered.
  int64_t reached() const;
  // Each code at least as often at the server as at the client, and no request that the client does not know.
  bool agree() const;
};

}  // namespace tessera::load
