#include "client/load/schedule.h"

#include <cmath>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/random.h"
#include "client/status_macros.h"

namespace tessera::load {
namespace {

constexpr double kMaxTraceSeconds = 1e7;  // keeps nanoseconds within their range

Nanoseconds FromSeconds(double seconds) { return Nanoseconds(std::llround(seconds * 1e9)); }

class ConstantSchedule : public Schedule {
 public:
  explicit ConstantSchedule(double rate) : rate_(rate) {}
  std::optional<Nanoseconds> Next() override { return FromSeconds(static_cast<double>(n_++) / rate_); }

 private:
  const double rate_;
  int64_t n_ = 0;
};

class PoissonSchedule : public Schedule {
 public:
  PoissonSchedule(double rate, uint64_t seed) : rate_(rate), random_(seed) {}
  std::optional<Nanoseconds> Next() override {
    seconds_ -= std::log(1 - random_.Uniform()) / rate_;
    return FromSeconds(seconds_);
  }

 private:
  const double rate_;
  client::Random random_;
  double seconds_ = 0;
};

class StepSchedule : public Schedule {
 public:
  StepSchedule(Arrivals arrivals, std::vector<RateStep> steps, uint64_t seed)
      : arrivals_(arrivals), steps_(std::move(steps)), seed_(seed) {}
  std::optional<Nanoseconds> Next() override {
    while (step_ < steps_.size()) {
      if (!current_) current_ = MakeSchedule(arrivals_, steps_[step_].rate, seed_ + step_);
      const Nanoseconds offset = *current_->Next();
      if (offset < steps_[step_].duration) return begin_ + offset;
      begin_ += steps_[step_++].duration;
      current_.reset();
    }
    return std::nullopt;
  }

 private:
  const Arrivals arrivals_;
  const std::vector<RateStep> steps_;
  const uint64_t seed_;
  size_t step_ = 0;
  Nanoseconds begin_{0};
  std::unique_ptr<Schedule> current_;
};

class TraceSchedule : public Schedule {
 public:
  TraceSchedule(const Trace& trace, double speed) : trace_(trace), speed_(speed) {}
  std::optional<Nanoseconds> Next() override {
    if (n_ == trace_.size()) return std::nullopt;
    return Nanoseconds(std::llround(static_cast<double>(trace_[n_++].at.count()) / speed_));
  }

 private:
  const Trace trace_;
  const double speed_;
  size_t n_ = 0;
};

absl::Status BadLine(size_t line, const std::string& expected, const std::string& actual) {
  return absl::InvalidArgumentError(
      absl::StrCat("trace line ", line, ": expected ", expected, ", got '", actual, "'"));
}

absl::StatusOr<int64_t> ParseLength(size_t line, const std::string& text) {
  int64_t length = 0;
  if (absl::SimpleAtoi(text, &length) && length >= 1) return length;
  return BadLine(line, "a length of at least 1", text);
}

absl::StatusOr<TraceEntry> ParseLine(size_t line, const std::string& text) {
  const std::vector<std::string> cells = absl::StrSplit(text, ',');
  if (cells.size() > 3) return BadLine(line, "SECONDS[,Q_LEN[,KV_LEN]]", text);
  double seconds = 0;
  if (!absl::SimpleAtod(cells[0], &seconds) || !(seconds >= 0 && seconds <= kMaxTraceSeconds)) {
    return BadLine(line, "seconds since the trace's start", cells[0]);
  }
  TraceEntry entry{FromSeconds(seconds), {}, {}};
  if (cells.size() > 1) {
    TESSERA_TRY_ASSIGN(entry.q_len, ParseLength(line, cells[1]));
  }
  if (cells.size() > 2) {
    TESSERA_TRY_ASSIGN(entry.kv_len, ParseLength(line, cells[2]));
  }
  return entry;
}

bool IsTitle(const std::string& text) { return absl::ascii_isalpha(static_cast<unsigned char>(text[0])); }

}  // namespace

std::unique_ptr<Schedule> MakeSchedule(Arrivals arrivals, double rate, uint64_t seed) {
  if (arrivals == Arrivals::kPoisson) return std::make_unique<PoissonSchedule>(rate, seed);
  return std::make_unique<ConstantSchedule>(rate);
}

std::unique_ptr<Schedule> MakeSteps(Arrivals arrivals, std::vector<RateStep> steps, uint64_t seed) {
  return std::make_unique<StepSchedule>(arrivals, std::move(steps), seed);
}

absl::StatusOr<Trace> ParseTrace(const std::string& text) {
  Trace trace;
  size_t number = 0;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  for (const std::string& raw : lines) {
    ++number;
    std::string line = raw.substr(0, raw.find('#'));
    absl::StripAsciiWhitespace(&line);
    if (line.empty() || (trace.empty() && IsTitle(line))) continue;
    TESSERA_TRY_ASSIGN(const TraceEntry entry, ParseLine(number, line));
    if (!trace.empty() && entry.at < trace.back().at) {
      return BadLine(number, "a time not before that of the line above", line);
    }
    if (!trace.empty() && entry.q_len.has_value() != trace.front().q_len.has_value()) {
      return BadLine(number, "lengths on every line or on none", line);
    }
    trace.push_back(entry);
  }
  if (trace.empty()) return absl::InvalidArgumentError("trace: expected at least one request, got none");
  return trace;
}

absl::StatusOr<Trace> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat("trace '", path, "' cannot be read"));
  }
  return ParseTrace(text.str());
}

std::unique_ptr<Schedule> ReplayTrace(const Trace& trace, double speed) {
  return std::make_unique<TraceSchedule>(trace, speed);
}

}  // namespace tessera::load
