#include "server/listen_address.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "server/log.h"

namespace tessera {
namespace {

constexpr char kUnixPrefix[] = "unix:";

absl::Status BadAddress(const std::string& text, const std::string& expected) {
  return InvalidArgument("LISTEN_ADDRESS_INVALID", "listen address", expected, Quoted(text));
}

absl::StatusOr<ListenAddress> ParseUnix(const std::string& text) {
  ListenAddress address;
  address.text = text;
  address.unix_path = text.substr(std::strlen(kUnixPrefix));
  if (absl::StartsWith(address.unix_path, "///")) address.unix_path.erase(0, 2);  // unix:///absolute/path
  const size_t longest = sizeof(sockaddr_un::sun_path) - 1;
  if (address.unix_path.empty() || address.unix_path.size() > longest) {
    return BadAddress(text, absl::StrCat("unix:PATH with a path of 1 to ", longest, " bytes"));
  }
  return address;
}

absl::Status PathTaken(const std::string& path, const std::string& by) {
  return MakeError(absl::StatusCode::kAlreadyExists,
                   absl::StrCat("unix:", path, ": ", by, "; choose another path"),
                   {.reason = "LISTEN_PATH_TAKEN",
                    .metadata = {{"expected", "no file, or a socket that nobody listens on"}, {"actual", by}},
                    .retry_after = std::nullopt});
}

// Whether a server accepts connections at `path`.
bool IsLive(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return true;  // cannot tell: be careful
  const int result = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const bool refused = result != 0 && errno == ECONNREFUSED;
  close(fd);
  return !refused;
}

}  // namespace

bool ListenAddress::is_local() const {
  if (is_unix() || host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string ListenAddress::Bound(int bound_port) const {
  if (is_unix()) return absl::StrCat(kUnixPrefix, unix_path);
  const bool is_v6 = absl::StrContains(host, ":");
  return is_v6 ? absl::StrCat("[", host, "]:", bound_port) : absl::StrCat(host, ":", bound_port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text) {
  if (absl::StartsWith(text, kUnixPrefix)) return ParseUnix(text);
  const std::string expected = "HOST:PORT, [IPV6]:PORT or unix:PATH";
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return BadAddress(text, expected);
  ListenAddress address;
  address.text = text;
  address.host = text.substr(0, colon);
  const bool bracketed = absl::StartsWith(address.host, "[") && absl::EndsWith(address.host, "]");
  if (bracketed) address.host = address.host.substr(1, address.host.size() - 2);
  // "::1" alone has colons but no port.
  if (!bracketed && absl::StrContains(address.host, ":")) return BadAddress(text, expected);
  if (address.host.empty()) return BadAddress(text, expected);
  if (!absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port < 0 || address.port > 65535) {
    return BadAddress(text, "a port in 0..65535");
  }
  return address;
}

absl::Status PrepareUnixPath(const std::string& path) {
  struct stat file {};
  if (lstat(path.c_str(), &file) != 0) return absl::OkStatus();  // nothing there; bind says the rest
  if (!S_ISSOCK(file.st_mode)) return PathTaken(path, "a file that is no socket is there");
  if (IsLive(path)) return PathTaken(path, "another server listens there");
  Log().info("event=remove_stale_socket path={}", Quoted(path));
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("unix:", path, ": a stale socket that cannot be removed: ", std::strerror(errno)));
}

absl::Status CannotListen(const std::string& address) {
  return MakeError(
      absl::StatusCode::kUnavailable,
      absl::StrCat("cannot listen on ", address, ": it is in use, not of this machine, or not permitted"),
      {.reason = "LISTEN_FAILED",
       .metadata = {{"expected", "an address that can be bound"}, {"actual", address}},
       .retry_after = std::nullopt});
}

}  // namespace tessera
