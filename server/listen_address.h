// Addresses to listen on: syntax, who can reach them, and the files of Unix sockets.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

struct ListenAddress {
  std::string text;       // as given
  std::string host;       // "127.0.0.1", "::1" (no brackets), "localhost"; empty for a Unix socket
  int port = 0;           // 0: any free one
  std::string unix_path;  // of a Unix socket, else empty

  bool is_unix() const { return !unix_path.empty(); }
  // Whether only this machine can reach it: Unix sockets, 127.0.0.0/8, ::1 and the name localhost.
  bool is_local() const;
  // As clients dial it, once bound to `bound_port`.
  std::string Bound(int bound_port) const;
};

// "HOST:PORT", "[IPV6]:PORT" or "unix:PATH"; INVALID_ARGUMENT otherwise.
absl::StatusOr<ListenAddress> ParseListenAddress(const std::string& text);

// Makes room for a Unix socket at `path`: removes a socket file that nobody listens on. ALREADY_EXISTS when
// somebody does, or when the file is no socket.
absl::Status PrepareUnixPath(const std::string& path);

// UNAVAILABLE, reason LISTEN_FAILED.
absl::Status CannotListen(const std::string& address);

}  // namespace tessera
