#include "client/load/tally.h"

#include <algorithm>

namespace tessera::load {

const char* ReachName(Reach reach) {
  switch (reach) {
    case Reach::kAnswered:
      return "answered by the server";
    case Reach::kNoAnswer:
      return "no answer";
    case Reach::kNeverLeft:
      return "not sent";
  }
  return "";
}

TimelineSlot& Tally::Slot(Clock::duration since_start) {
  const auto index = static_cast<size_t>(std::max<int64_t>(since_start / kSlotWidth, 0));
  if (index >= timeline.size()) timeline.resize(index + 1);
  return timeline[index];
}

void Tally::Merge(const Tally& other) {
  attempted += other.attempted;
  ok += other.ok;
  in_time += other.in_time;
  for (const auto& [key, count] : other.errors) errors[key] += count;
  messages.insert(other.messages.begin(), other.messages.end());
  for (const auto& [code, count] : other.answered) answered[code] += count;
  unanswered += other.unanswered;
  latency.Merge(other.latency);
  service.Merge(other.service);
  lag.Merge(other.lag);
  tokens += other.tokens;
  flops += other.flops;
  tensor_bytes += other.tensor_bytes;
  ledgers += other.ledgers;
  time.client += other.time.client;
  time.wire += other.time.wire;
  time.queue += other.time.queue;
  time.transfer += other.time.transfer;
  time.compute += other.time.compute;
  time.other += other.time.other;
  device_busy += other.device_busy;
  last = std::max(last, other.last);
  if (timeline.size() < other.timeline.size()) timeline.resize(other.timeline.size());
  for (size_t i = 0; i < other.timeline.size(); ++i) {
    timeline[i].attempted += other.timeline[i].attempted;
    timeline[i].ok += other.timeline[i].ok;
    timeline[i].failed += other.timeline[i].failed;
    timeline[i].max_latency = std::max(timeline[i].max_latency, other.timeline[i].max_latency);
  }
}

int64_t Tally::failed() const {
  int64_t sum = 0;
  for (const auto& [key, count] : errors) sum += count;
  return sum;
}

int64_t Tally::failed(Reach reach) const {
  int64_t sum = 0;
  for (const auto& [key, count] : errors) sum += key.reach == reach ? count : 0;
  return sum;
}

}  // namespace tessera::load
