#include "tests/integration/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

namespace tessera::testing {
namespace {

using Clock = std::chrono::steady_clock;

std::string TemporaryFile() {
  const char* directory = std::getenv("TMPDIR");
  std::string path = std::string(directory != nullptr ? directory : "/tmp") + "/tessera-test-XXXXXX";
  close(mkstemp(path.data()));
  return path;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Forks and execs argv with stdout and stderr on the given descriptors, stdin on /dev/null. The child leads a
// process group, for what it starts itself, and does not outlive this thread.
pid_t Spawn(const std::vector<std::string>& argv, int out_fd, int err_fd) {
  std::vector<char*> arguments;
  for (const auto& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(out_fd, STDOUT_FILENO);
    dup2(err_fd, STDERR_FILENO);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  return pid;
}

int ExitCode(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

// Reaps `pid`, with SIGKILL to its whole group once `timeout` has passed.
int Reap(pid_t pid, std::chrono::seconds timeout) {
  const auto deadline = Clock::now() + timeout;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      kill(-pid, SIGKILL);
      kill(pid, SIGKILL);  // had it not come to lead its group yet
      waitpid(pid, &status, 0);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return ExitCode(status);
}

}  // namespace

ProcessResult RunProcess(const std::vector<std::string>& argv, std::chrono::seconds timeout) {
  const std::string out_path = TemporaryFile(), err_path = TemporaryFile();
  const int out_fd = open(out_path.c_str(), O_WRONLY | O_CLOEXEC);
  const int err_fd = open(err_path.c_str(), O_WRONLY | O_CLOEXEC);
  const pid_t pid = Spawn(argv, out_fd, err_fd);
  close(out_fd);
  close(err_fd);
  ProcessResult result;
  result.exit_code = Reap(pid, timeout);
  result.out = ReadFile(out_path);
  result.err = ReadFile(err_path);
  unlink(out_path.c_str());
  unlink(err_path.c_str());
  return result;
}

std::unique_ptr<ServerProcess> ServerProcess::Start(const std::string& binary,
                                                    const std::vector<std::string>& flags,
                                                    ProcessResult* failure) {
  auto server = std::unique_ptr<ServerProcess>(new ServerProcess);
  server->log_path_ = TemporaryFile();
  std::vector<std::string> argv = {binary};
  size_t num_addresses = 0;
  for (const std::string& flag : flags) {
    if (flag.rfind("--listen=", 0) != 0) continue;
    num_addresses += 1 + static_cast<size_t>(std::count(flag.begin(), flag.end(), ','));
  }
  if (num_addresses == 0) {
    argv.push_back("--listen=127.0.0.1:0");
    num_addresses = 1;
  }
  argv.insert(argv.end(), flags.begin(), flags.end());

  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) return nullptr;
  const int log_fd = open(server->log_path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  server->pid_ = Spawn(argv, pipe_fds[1], log_fd);
  close(pipe_fds[1]);
  close(log_fd);
  server->stdout_fd_ = pipe_fds[0];

  // One line for each address, printed once it accepts connections.
  const std::string prefix = "listening on ";
  std::string text;
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (server->addresses_.size() < num_addresses) {
    pollfd waiter{server->stdout_fd_, POLLIN, 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0 || poll(&waiter, 1, static_cast<int>(left)) <= 0) break;
    char buffer[512];
    const ssize_t count = read(server->stdout_fd_, buffer, sizeof buffer);
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
    server->addresses_.clear();
    std::istringstream lines(text.substr(0, text.rfind('\n') + 1));
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind(prefix, 0) == 0) server->addresses_.push_back(line.substr(prefix.size()));
    }
  }
  if (server->addresses_.size() < num_addresses) {
    server->Signal(SIGTERM);
    const int exit_code = server->WaitForExit(std::chrono::seconds(5));
    if (failure != nullptr) *failure = {exit_code, text, server->Log()};
    return nullptr;
  }
  return server;
}

ServerProcess::~ServerProcess() {
  if (!reaped_) {
    Signal(SIGTERM);
    WaitForExit();
  }
  if (stdout_fd_ >= 0) close(stdout_fd_);
  if (!log_path_.empty()) unlink(log_path_.c_str());
}

bool ServerProcess::Running() {
  if (reaped_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == 0) return true;
  reaped_ = true;
  exit_code_ = ExitCode(status);
  return false;
}

void ServerProcess::Signal(int signal) const {
  if (!reaped_ && pid_ > 0) kill(pid_, signal);
}

int ServerProcess::WaitForExit(std::chrono::seconds timeout) {
  if (!reaped_ && pid_ > 0) {
    exit_code_ = Reap(pid_, timeout);
    reaped_ = true;
  }
  return exit_code_;
}

std::string ServerProcess::Log() const { return ReadFile(log_path_); }

}  // namespace tessera::testing
