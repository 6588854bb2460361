// A load test's progress on stderr: a bar that is redrawn on a terminal, plain lines elsewhere.
#pragma once

#include <condition_variable>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>

#include "client/load/load_test.h"

namespace tessera::load {

class Progress : public Observer {
 public:
  // `width`: columns of the terminal; 0: `out` is none.
  Progress(std::ostream& out, int width) : out_(out), width_(width) {}
  ~Progress() override;

  void PhaseBegins(const std::string& target, const LoadPoint& point, Clock::duration length,
                   const LiveCounters& live) override;
  void PhaseEnds(const PhaseResult& result) override;

 private:
  void Loop();
  void Draw(Clock::time_point now);
  void Stop();

  std::ostream& out_;
  const int width_;
  std::string title_;
  Clock::time_point begin_;
  Clock::duration length_{};
  const LiveCounters* live_ = nullptr;
  int64_t last_ok_ = 0;
  Clock::time_point last_draw_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool running_ = false;
  std::thread thread_;
};

// Columns of the terminal behind descriptor `fd`; 0 when it is none.
int TerminalWidth(int fd);

}  // namespace tessera::load
