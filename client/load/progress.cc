#include "client/load/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/table.h"

namespace tessera::load {
namespace {

constexpr std::chrono::milliseconds kRedraw{250};
constexpr std::chrono::seconds kPlainLine{10};
constexpr int kBarWidth = 20;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

Progress::~Progress() { Stop(); }

void Progress::PhaseBegins(const std::string& target, const LoadPoint& point, Clock::duration length,
                           const LiveCounters& live) {
  title_ = absl::StrCat(target, ", ", point.label);
  begin_ = last_draw_ = Clock::now();
  length_ = length;
  live_ = &live;
  last_ok_ = 0;
  if (width_ == 0) out_ << title_ << absl::StrFormat(": begins, %.1f s\n", Seconds(length)) << std::flush;
  running_ = true;
  thread_ = std::thread([this] { Loop(); });
}

void Progress::PhaseEnds(const PhaseResult& result) {
  Stop();
  const Tally& tally = result.tally;
  const std::string line = absl::StrFormat(
      "%s: %.0f/s, p50 %s, p99 %s, %d failed", title_, static_cast<double>(tally.ok) / result.seconds,
      client::HumanMicroseconds(static_cast<double>(tally.latency.Percentile(50)) / 1e3),
      client::HumanMicroseconds(static_cast<double>(tally.latency.Percentile(99)) / 1e3), tally.failed());
  out_ << (width_ > 0 ? "\r\033[K" : "") << line << "\n" << std::flush;
}

void Progress::Stop() {
  {
    const std::lock_guard lock(mutex_);
    running_ = false;
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Progress::Loop() {
  std::unique_lock lock(mutex_);
  const Clock::duration interval = width_ > 0 ? Clock::duration(kRedraw) : Clock::duration(kPlainLine);
  while (!changed_.wait_for(lock, interval, [this] { return !running_; })) Draw(Clock::now());
}

void Progress::Draw(Clock::time_point now) {
  const int64_t ok = live_->ok.load(std::memory_order_relaxed);
  const int64_t failed = live_->failed.load(std::memory_order_relaxed);
  const int64_t sent = live_->sent.load(std::memory_order_relaxed);
  const double rate = static_cast<double>(ok - last_ok_) / Seconds(now - last_draw_);
  last_ok_ = ok;
  last_draw_ = now;
  const double share = std::min(1.0, Seconds(now - begin_) / std::max(Seconds(length_), 1e-9));
  const std::string figures = absl::StrFormat(
      "%.0f/%.0f s  %s/s  %d ok  %d failed  %d in flight", Seconds(now - begin_), Seconds(length_),
      client::HumanCount(rate), ok, failed, std::max<int64_t>(sent - ok - failed, 0));
  if (width_ == 0) {
    out_ << title_ << ": " << figures << "\n" << std::flush;
    return;
  }
  const int full = static_cast<int>(share * kBarWidth);
  std::string line =
      absl::StrCat("[", std::string(static_cast<size_t>(full), '#'),
                   std::string(static_cast<size_t>(kBarWidth - full), '.'), "] ", figures, "  ", title_);
  // A line that wraps would not be overwritten by the next.
  line.resize(std::min(line.size(), static_cast<size_t>(std::max(width_ - 1, 1))));
  out_ << "\r\033[K" << line << std::flush;
}

int TerminalWidth(int fd) {
  if (isatty(fd) == 0) return 0;
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace tessera::load
