#include "client/load/server_totals.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmath>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/status_macros.h"

namespace tessera::load {
namespace {

constexpr char kMetric[] = "tessera_requests_total{";
constexpr timeval kTimeout{5, 0};

int64_t Sum(const CountsByCode& counts) {
  int64_t sum = 0;
  for (const auto& [code, count] : counts) sum += count;
  return sum;
}

// "" when there is no such label.
std::string LabelOf(const std::string& line, const std::string& name) {
  for (const char* before : {"{", ","}) {
    const std::string key = absl::StrCat(before, name, "=\"");
    const size_t begin = line.find(key);
    if (begin == std::string::npos) continue;
    const size_t value = begin + key.size();
    return line.substr(value, line.find('"', value) - value);
  }
  return "";
}

// Closes its descriptor.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

absl::StatusOr<std::string> Fetch(const Socket& socket, const std::string& host_port) {
  const std::string request =
      absl::StrCat("GET /metrics HTTP/1.1\r\nHost: ", host_port, "\r\nConnection: close\r\n\r\n");
  if (send(socket.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return absl::UnavailableError(absl::StrCat(host_port, " takes no request"));
  }
  std::string reply;
  std::vector<char> buffer(1 << 16);
  ssize_t count = 0;
  while ((count = recv(socket.get(), buffer.data(), buffer.size(), 0)) > 0) {
    reply.append(buffer.data(), static_cast<size_t>(count));
  }
  const std::string status = reply.substr(0, reply.find('\r'));
  if (count < 0 || !absl::StrContains(status, " 200")) {
    return absl::UnavailableError(
        absl::StrCat(host_port, "/metrics: expected status 200, got '", status, "'"));
  }
  return reply;
}

}  // namespace

CountsByCode ParseRequestsTotal(const std::string& exposition) {
  CountsByCode counts;
  const std::vector<std::string> lines = absl::StrSplit(exposition, '\n');
  for (const std::string& line : lines) {
    if (!absl::StartsWith(line, kMetric) || LabelOf(line, "method") != "Attend") continue;
    double value = 0;
    const std::string text = line.substr(line.rfind('}') + 1);
    if (absl::SimpleAtod(text, &value)) counts[LabelOf(line, "code")] += std::llround(value);
  }
  return counts;
}

absl::StatusOr<CountsByCode> ReadRequestsTotal(const std::string& host_port) {
  const size_t colon = host_port.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == host_port.size()) {
    return absl::InvalidArgumentError(absl::StrCat("expected HOST:PORT, got '", host_port, "'"));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host_port.substr(0, colon).c_str(), host_port.substr(colon + 1).c_str(), &hints, &found) !=
      0) {
    return absl::InvalidArgumentError(absl::StrCat("expected HOST:PORT, got '", host_port, "'"));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const Socket socket(
        ::socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol));
    if (socket.get() < 0) continue;
    setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kTimeout, sizeof(kTimeout));
    if (connect(socket.get(), address->ai_addr, address->ai_addrlen) != 0) continue;
    TESSERA_TRY_ASSIGN(const std::string reply, Fetch(socket, host_port));
    return ParseRequestsTotal(reply);
  }
  return absl::UnavailableError(absl::StrCat("no metrics at ", host_port));
}

int64_t TotalsComparison::reached() const { return Sum(server) - Sum(client); }

bool TotalsComparison::agree() const {
  for (const auto& [code, count] : client) {
    const auto counted = server.find(code);
    if (counted == server.end() || counted->second < count) return false;
  }
  return reached() >= 0 && reached() <= unanswered;
}

}  // namespace tessera::load
