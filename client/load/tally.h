// What is counted while requests fly.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "client/load/histogram.h"

namespace tessera::load {

using Clock = std::chrono::steady_clock;

// How far a failed request is known to have come.
enum class Reach {
  kAnswered,   // the server answered with an error
  kNoAnswer,   // sent, and ended by the deadline, by the connection or by the end of the run: the server may
               // have counted it or never have seen it
  kNeverLeft,  // not sent: too many others were in flight
};
const char* ReachName(Reach reach);

struct ErrorKey {
  Reach reach;
  std::string code;    // "RESOURCE_EXHAUSTED"
  std::string reason;  // the ErrorInfo's, else the beginning of the message
  auto operator<=>(const ErrorKey&) const = default;
};

// Means over the replies, microseconds each, and parts of the latency: they add up to it.
struct TimeSplit {
  double client = 0;    // from the scheduled to the actual send
  double wire = 0;      // from the send to the reply's arrival, less what the server says it took
  double queue = 0;     // the server's ledger, from here on
  double transfer = 0;  // in and out
  double compute = 0;
  double other = 0;  // of the server's total: parsing, planning, building the reply

  double sum() const { return client + wire + queue + transfer + compute + other; }
};

// One tenth of a second, by scheduled send.
struct TimelineSlot {
  int64_t attempted = 0, ok = 0, failed = 0;
  int64_t max_latency = 0;  // of replies, nanoseconds
};
inline constexpr std::chrono::milliseconds kSlotWidth{100};

// One writer; merged when it has stopped. Of the measured requests, not those of the warm-up.
struct Tally {
  int64_t attempted = 0;  // that were due, sent or not
  int64_t ok = 0;
  int64_t in_time =
      0;  // ok within the deadline, counted from the scheduled send; all that are ok without one
  std::map<ErrorKey, int64_t> errors;
  std::map<ErrorKey, std::string> messages;  // one example of each

  Histogram latency;  // of ok replies, from the scheduled send
  Histogram service;  // of the same, from the actual send: what a closed loop would see
  Histogram lag;      // from scheduled to actual send, of all that were sent

  int64_t tokens = 0, flops = 0, tensor_bytes = 0;
  int64_t ledgers = 0;       // replies that carried one
  TimeSplit time;            // sums over these
  double device_busy = 0;    // microseconds of launches, each counted once however many requests share it
  Clock::time_point last{};  // arrival of the last reply or error
  std::vector<TimelineSlot> timeline;

  // Of the warm-up too: what the server's own counters are compared with.
  std::map<std::string, int64_t> answered;  // by code
  int64_t unanswered = 0;

  TimelineSlot& Slot(Clock::duration since_start);
  void Merge(const Tally& other);

  int64_t failed() const;
  int64_t failed(Reach reach) const;
};

}  // namespace tessera::load
