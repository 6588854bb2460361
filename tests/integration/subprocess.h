// Child processes for integration tests: the real server and the real CLI, each stopped by its own pid.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace tessera::testing {

struct ProcessResult {
  int exit_code = -1;  // 128 + signal when a signal ended it
  std::string out;
  std::string err;
};

// Runs argv to its end; after `timeout` kills it (exit_code 137) so that a hang is a failure and not a stuck
// suite.
ProcessResult RunProcess(const std::vector<std::string>& argv,
                         std::chrono::seconds timeout = std::chrono::seconds(120));

// A running tessera-server on a free loopback port (or what `flags` say). Destruction stops it with SIGTERM.
class ServerProcess {
 public:
  // Starts `binary` with --listen=127.0.0.1:0 and `flags`, and waits for "listening on ADDRESS" on its
  // stdout. nullptr when it exits instead; *failure then holds how.
  static std::unique_ptr<ServerProcess> Start(const std::string& binary,
                                              const std::vector<std::string>& flags, ProcessResult* failure);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  const std::string& address() const { return addresses_.front(); }
  const std::vector<std::string>& addresses() const { return addresses_; }
  pid_t pid() const { return pid_; }
  // False once the process has ended.
  bool Running();
  void Signal(int signal) const;
  // Waits for the end; exit code as in ProcessResult. SIGKILL after `timeout`.
  int WaitForExit(std::chrono::seconds timeout = std::chrono::seconds(60));
  // What it wrote to stderr so far.
  std::string Log() const;

 private:
  ServerProcess() = default;

  pid_t pid_ = -1;
  int exit_code_ = -1;
  bool reaped_ = false;
  int stdout_fd_ = -1;
  std::string log_path_;
  std::vector<std::string> addresses_;
};

}  // namespace tessera::testing
