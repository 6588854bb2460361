// What a metrics endpoint says, as a map.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <initializer_list>
#include <map>
#include <sstream>
#include <string>

namespace tessera::testing {

// The answer to GET `path` at "127.0.0.1:PORT", headers and all; empty where nobody answers.
inline std::string HttpGet(const std::string& address, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::atoi(address.substr(address.rfind(':') + 1).c_str())));
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0) {
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
      char buffer[4096];
      for (ssize_t count; (count = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        answer.append(buffer, static_cast<size_t>(count));
      }
    }
  }
  close(fd);
  return answer;
}

// name{labels} -> value, labels as written.
using Series = std::map<std::string, double>;

inline Series Scrape(const std::string& address) {
  Series series;
  std::istringstream lines(HttpGet(address, "/metrics"));
  for (std::string line; std::getline(lines, line);) {
    const size_t space = line.rfind(' ');
    if (line.rfind("tessera_", 0) != 0 || space == std::string::npos) continue;
    series[line.substr(0, space)] = std::strtod(line.c_str() + space, nullptr);
  }
  return series;
}

// The sum of the series of `name` whose labels contain all of `parts`, as 'code="OK"'.
inline double Total(const Series& series, const std::string& name,
                    std::initializer_list<const char*> parts = {}) {
  double total = 0;
  for (const auto& [key, value] : series) {
    if (key.substr(0, key.find('{')) != name) continue;
    bool matches = true;
    for (const char* part : parts) matches = matches && key.find(part) != std::string::npos;
    if (matches) total += value;
  }
  return total;
}

}  // namespace tessera::testing
