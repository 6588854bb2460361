#include "client/load/worker.h"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "client/error.h"
#include "client/load/reply_header.h"

namespace tessera::load {
namespace {

// How often a thread that waits for replies looks whether the phase is over.
constexpr std::chrono::milliseconds kTick{20};
constexpr size_t kMaxReasonBytes = 60;

// Sleeps to the microsecond: wakes as much earlier as this machine is used to be late, and yields until then.
class PunctualSleeper {
 public:
  PunctualSleeper() { prctl(PR_SET_TIMERSLACK, 1UL); }  // the usual slack is 50 us

  void Until(Clock::time_point due) {
    const Clock::time_point wake = due - late_;
    if (wake > Clock::now()) {
      std::this_thread::sleep_until(wake);
      const Clock::duration oversleep = Clock::now() - wake;
      late_ = std::min<Clock::duration>((7 * late_ + oversleep) / 8, kLongestYield);
    }
    while (Clock::now() < due) std::this_thread::yield();
  }

 private:
  static constexpr std::chrono::microseconds kLongestYield{100};
  Clock::duration late_{0};  // a moving mean
};

double Microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

int64_t NanosecondsOf(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

ErrorKey KeyOf(const grpc::Status& status) {
  const absl::Status error = client::FromGrpcStatus(status);
  const auto info = client::GetErrorInfo(error);
  ErrorKey key;
  key.reach = info && info->domain == "tessera" ? Reach::kAnswered : Reach::kNoAnswer;
  key.code = absl::StatusCodeToString(error.code());
  key.reason = info ? info->reason : std::string(error.message()).substr(0, kMaxReasonBytes);
  return key;
}

void RecordLedger(const v1::Ledger& ledger, double lag_us, double service_us, Tally& tally) {
  const v1::TimeLedger& time = ledger.time();
  const double transfer = time.transfer_in() + time.transfer_out();
  ++tally.ledgers;
  tally.flops += ledger.flops();
  tally.tensor_bytes += ledger.memory().input() + ledger.memory().output();
  tally.time.client += lag_us;
  tally.time.wire += std::max(0.0, service_us - time.total());
  tally.time.queue += time.queue();
  tally.time.transfer += transfer;
  tally.time.compute += time.compute();
  // Where transfers overlap the computation their sum may pass the total.
  tally.time.other += std::max(0.0, time.total() - time.queue() - transfer - time.compute());
  tally.device_busy += time.compute() / std::max(1, ledger.choice().batch_requests());
}

}  // namespace

PhaseState::PhaseState(const Target& target, const Workload& workload, const PhaseSettings& settings,
                       Verifier* verifier, LiveCounters& live)
    : target(target),
      workload(workload),
      settings(settings),
      verifier(verifier),
      live(live),
      start(Clock::now()),
      measure_from(start + settings.warmup),
      end(measure_from + settings.duration) {}

bool PhaseState::TakeTicket() {
  return !settings.count || tickets_taken.fetch_add(1, std::memory_order_relaxed) < *settings.count;
}

// A call in flight, or one to be used again.
struct Worker::Call {
  std::optional<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;  // lives in the context's call: goes first
  grpc::ByteBuffer reply;
  grpc::Status status;
  uint64_t n = 0;
  Clock::time_point scheduled, sent;
  bool measured = false;
  bool in_flight = false;
};

Worker::Worker(PhaseState& phase, int index)
    : phase_(phase),
      index_(index),
      segments_(phase.settings.cuts.size() + 1),
      unsent_(phase.settings.point.open() ? segments_.size() : 0) {
  for (const auto& channel : phase.target.channels()) {
    stubs_.push_back(std::make_unique<grpc::GenericStub>(channel));
  }
}

Worker::~Worker() {
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

void Worker::Run() {
  std::thread pacer;
  if (phase_.settings.point.open()) {
    pacer = std::thread([this] { Pace(); });
  } else {
    StartClosedLoop();
  }
  Receive();
  if (pacer.joinable()) pacer.join();
  for (size_t i = 0; i < unsent_.size(); ++i) segments_[i].Merge(unsent_[i]);
}

void Worker::Pace() {
  PunctualSleeper sleeper;
  const auto schedule = phase_.settings.point.schedule();
  const auto threads = static_cast<uint64_t>(phase_.settings.threads);
  for (uint64_t n = 0;; ++n) {
    const std::optional<Nanoseconds> offset = schedule->Next();
    if (!offset) break;
    const Clock::time_point due = phase_.start + *offset;
    if (due >= phase_.end) break;
    if (n % threads != static_cast<uint64_t>(index_)) continue;
    if (due >= phase_.measure_from && !phase_.TakeTicket()) break;
    sleeper.Until(due);
    if (phase_.in_flight.load(std::memory_order_relaxed) >= phase_.settings.max_in_flight) {
      RecordUnsent(due);
      continue;
    }
    Send(TakeCall(), n, due);
  }
  sending_.store(false, std::memory_order_release);
}

void Worker::StartClosedLoop() {
  const int64_t threads = phase_.settings.threads;
  const int64_t all = phase_.settings.point.concurrency;
  const int64_t mine = all / threads + (index_ < all % threads ? 1 : 0);
  for (int64_t i = 0; i < mine; ++i) SendNext(TakeCall());
  if (mine == 0) sending_.store(false, std::memory_order_release);
}

void Worker::SendNext(Call& call) {
  const Clock::time_point now = Clock::now();
  const bool over = now >= phase_.end || (now >= phase_.measure_from && !phase_.TakeTicket());
  if (!over) return Send(call, phase_.next_number.fetch_add(1, std::memory_order_relaxed), now);
  sending_.store(false, std::memory_order_release);
}

void Worker::Send(Call& call, uint64_t n, Clock::time_point scheduled) {
  call.context.emplace();
  call.in_flight = true;
  call.n = n;
  call.scheduled = scheduled;
  call.measured = scheduled >= phase_.measure_from;
  call.sent = Clock::now();
  if (phase_.settings.deadline) {
    const auto left = scheduled + *phase_.settings.deadline - call.sent;
    call.context->set_deadline(std::chrono::system_clock::now() +
                               std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
  }
  outstanding_.fetch_add(1, std::memory_order_relaxed);
  phase_.in_flight.fetch_add(1, std::memory_order_relaxed);
  phase_.live.sent.fetch_add(1, std::memory_order_relaxed);
  const Workload& workload = phase_.workload;
  // Requests go round the connections; those of one worker begin at its own.
  const size_t stub =
      (n / static_cast<uint64_t>(phase_.settings.threads) + static_cast<size_t>(index_)) % stubs_.size();
  call.reader = stubs_[stub]->PrepareUnaryCall(&*call.context, workload.method(),
                                               workload.request(workload.IndexOf(n)).message, &queue_);
  call.reader->StartCall();
  call.reader->Finish(&call.reply, &call.status, &call);
}

void Worker::Receive() {
  const bool open = phase_.settings.point.open();
  const Clock::time_point give_up =
      phase_.end + phase_.settings.drain + phase_.settings.deadline.value_or(Clock::duration{0});
  bool cancelled = false;
  while (sending_.load(std::memory_order_acquire) || outstanding_.load(std::memory_order_relaxed) > 0) {
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kTick);
    const Clock::time_point now = Clock::now();
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      Call& call = *static_cast<Call*>(tag);
      Complete(call, now);
      call.reader.reset();
      call.context.reset();
      call.reply.Clear();
      call.in_flight = false;
      outstanding_.fetch_sub(1, std::memory_order_relaxed);
      phase_.in_flight.fetch_sub(1, std::memory_order_relaxed);
      if (open) {
        const std::lock_guard lock(mutex_);
        idle_.push_back(&call);
      } else {
        SendNext(call);
      }
    }
    // In an open loop only once the other thread is done with the calls.
    const bool may_cancel = !open || !sending_.load(std::memory_order_acquire);
    if (may_cancel && now > give_up && !std::exchange(cancelled, true)) CancelAll();
  }
}

void Worker::Complete(Call& call, Clock::time_point now) {
  const bool ok = call.status.ok();
  (ok ? phase_.live.ok : phase_.live.failed).fetch_add(1, std::memory_order_relaxed);
  Tally& tally = segments_[SegmentOf(call.scheduled)];
  ErrorKey error;
  if (!ok) error = KeyOf(call.status);
  if (ok || error.reach == Reach::kAnswered) {
    ++tally.answered[ok ? "OK" : error.code];
  } else {
    ++tally.unanswered;
  }
  if (!call.measured) return;
  ++tally.attempted;
  tally.last = std::max(tally.last, now);
  tally.lag.Record(NanosecondsOf(call.sent - call.scheduled));
  TimelineSlot& slot = tally.Slot(call.scheduled - phase_.measure_from);
  ++slot.attempted;
  if (!ok) {
    ++slot.failed;
    if (tally.errors[error]++ == 0) tally.messages.emplace(error, call.status.error_message());
    return;
  }
  ++slot.ok;
  slot.max_latency = std::max(slot.max_latency, NanosecondsOf(now - call.scheduled));
  RecordReply(call, now, tally);
}

void Worker::RecordReply(Call& call, Clock::time_point now, Tally& tally) {
  const Clock::duration latency = now - call.scheduled;
  ++tally.ok;
  if (!phase_.settings.deadline || latency <= *phase_.settings.deadline) ++tally.in_time;
  tally.latency.Record(NanosecondsOf(latency));
  tally.service.Record(NanosecondsOf(now - call.sent));
  tally.tokens += phase_.workload.request(phase_.workload.IndexOf(call.n)).tokens;
  if (ReadLedger(call.reply, ledger_)) {
    RecordLedger(ledger_, Microseconds(call.sent - call.scheduled), Microseconds(now - call.sent), tally);
  }
  if (phase_.verifier != nullptr && phase_.verifier->Wants(call.n)) {
    phase_.verifier->Offer(call.n, call.reply);
  }
}

size_t Worker::SegmentOf(Clock::time_point scheduled) const {
  const std::vector<Clock::duration>& cuts = phase_.settings.cuts;
  const auto after = std::upper_bound(cuts.begin(), cuts.end(), scheduled - phase_.measure_from);
  return static_cast<size_t>(after - cuts.begin());
}

void Worker::RecordUnsent(Clock::time_point scheduled) {
  phase_.live.failed.fetch_add(1, std::memory_order_relaxed);
  if (scheduled < phase_.measure_from) return;
  Tally& tally = unsent_[SegmentOf(scheduled)];
  ++tally.attempted;
  TimelineSlot& slot = tally.Slot(scheduled - phase_.measure_from);
  ++slot.attempted;
  ++slot.failed;
  ++tally.errors[{Reach::kNeverLeft, "NOT_SENT", "--max-in-flight reached"}];
}

Worker::Call& Worker::TakeCall() {
  const std::lock_guard lock(mutex_);
  if (idle_.empty()) return *calls_.emplace_back(std::make_unique<Call>());
  Call& call = *idle_.back();
  idle_.pop_back();
  return call;
}

void Worker::CancelAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& call : calls_) {
    if (call->in_flight) call->context->TryCancel();
  }
}

}  // namespace tessera::load
