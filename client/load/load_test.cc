#include "client/load/load_test.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::load {
namespace {

constexpr double kLittleFailure = 1e-3;  // share of requests that may fail at a rate that still holds
constexpr double kAchieved = 0.95;       // share of the offered rate that must be answered
constexpr int kMaxProbes = 40;
constexpr double kCalmLoad = 0.5;  // of the capacity, before and after an overload
constexpr size_t kHealthySlots = 5;
constexpr int64_t kUsualSpread = 2;  // a latency of so many times the earlier p99 is as before
constexpr int kTotalsAttempts = 20;

double RateOf(const PhaseResult& result) { return static_cast<double>(result.tally.ok) / result.seconds; }

void MergePhase(PhaseResult& into, PhaseResult&& from) {
  const double seconds = into.seconds + from.seconds;
  into.client_cpu = (into.client_cpu * into.seconds + from.client_cpu * from.seconds) / seconds;
  into.seconds = seconds;
  into.tally.Merge(from.tally);
}

class LoadTest {
 public:
  LoadTest(const std::vector<std::unique_ptr<Target>>& targets, const Workload& workload,
           const LoadTestSettings& settings, Verifier* verifier, Observer& observer)
      : targets_(targets),
        workload_(workload),
        settings_(settings),
        verifier_(verifier),
        observer_(observer) {}

  // All points on all targets, each round in turn, so that what changes on the machine meets all alike.
  void RunPoints(LoadReport& report) {
    for (const LoadPoint& point : settings_.points) {
      for (const auto& target : targets_) {
        report.points.push_back({target->address(), target->transport(), point, settings_.rounds, {}, {}});
      }
    }
    for (int round = 0; round < settings_.rounds; ++round) {
      for (size_t i = 0; i < report.points.size(); ++i) {
        PointResult& result = report.points[i];
        PhaseResult phase = Run(*targets_[i % targets_.size()], result.point, settings_.phase);
        if (round == 0) {
          result.phase = std::move(phase);
        } else {
          MergePhase(result.phase, std::move(phase));
        }
      }
    }
    for (PointResult& result : report.points) Judge(result);
  }

  void Search(const Target& target, LoadReport& report) {
    const SearchSettings& search = *settings_.search;
    SearchResult found{target.address(), 0, 0, ""};
    double rate = search.first_rate;
    for (int probe = 0; probe < kMaxProbes; ++probe) {
      const PhaseResult& phase = Probe(target, rate, report);
      const std::string why = WhyNot(phase, rate);
      if (why.empty()) {
        found.held = rate;
      } else {
        found.failed = rate;
        found.why = why;
      }
      const bool bracketed = found.failed > 0 && found.held > 0;
      if (bracketed && found.failed / found.held <= 1 + search.precision) break;
      if (found.failed > 0 && found.failed < 1) break;  // less than one request a second
      rate = bracketed ? std::sqrt(found.held * found.failed) : found.failed > 0 ? rate / 2 : rate * 2;
    }
    report.searches.push_back(std::move(found));
  }

  void Overload(const Target& target, LoadReport& report) {
    const OverloadSettings& overload = *settings_.overload;
    double capacity = overload.capacity.value_or(0);
    if (capacity == 0) {
      PointResult closed{target.address(), target.transport(), ClosedPoint(overload.concurrency), 1, {}, {}};
      closed.phase = Run(target, closed.point, settings_.phase);
      Judge(closed);
      capacity = RateOf(closed.phase);
      report.points.push_back(std::move(closed));
      if (capacity <= 0) return;
    }
    RunSteps(target, capacity, report);
  }

  // `before`: the server's counts when the test began.
  absl::StatusOr<TotalsComparison> CompareTotals(const CountsByCode& before) const {
    TotalsComparison totals{answered_, {}, unanswered_};
    for (int attempt = 0; attempt < kTotalsAttempts; ++attempt) {
      TESSERA_TRY_ASSIGN(totals.server, ReadRequestsTotal(settings_.metrics));
      for (const auto& [code, count] : before) totals.server[code] -= count;
      if (totals.agree()) break;
      // The last requests may have ended here before the server wrote them down.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return totals;
  }

 private:
  PhaseResult Run(const Target& target, const LoadPoint& point, PhaseSettings settings) {
    settings.point = point;
    LiveCounters live;
    observer_.PhaseBegins(target.address(), point, settings.warmup + settings.duration, live);
    PhaseResult result = RunPhase(target, workload_, settings, verifier_, live);
    observer_.PhaseEnds(result);
    for (const auto& [code, count] : result.tally.answered) answered_[code] += count;
    unanswered_ += result.tally.unanswered;
    return result;
  }

  static void Judge(PointResult& result) {
    result.verdict = JudgeBottleneck(result.phase, result.point.open(), UsableCores());
  }

  const PhaseResult& Probe(const Target& target, double rate, LoadReport& report) {
    PointResult result{
        target.address(), target.transport(), OpenPoint(settings_.arrivals, rate, settings_.seed), 1, {}, {}};
    result.phase = Run(target, result.point, settings_.phase);
    Judge(result);
    return report.points.emplace_back(std::move(result)).phase;
  }

  // "" when the limit held.
  std::string WhyNot(const PhaseResult& phase, double rate) const {
    const Tally& tally = phase.tally;
    if (tally.attempted == 0) return "no request fell into the time of the phase";
    const int64_t limit = std::chrono::duration_cast<Nanoseconds>(settings_.search->p99_limit).count();
    if (static_cast<double>(tally.failed()) > kLittleFailure * static_cast<double>(tally.attempted)) {
      return absl::StrCat(tally.failed(), " of ", tally.attempted, " requests failed");
    }
    if (const int64_t p99 = tally.latency.Percentile(99); p99 > limit) {
      return absl::StrCat("p99 was ", client::HumanMicroseconds(static_cast<double>(p99) / 1e3));
    }
    if (tally.attempted > 0 &&
        RateOf(phase) < kAchieved * static_cast<double>(tally.attempted) / phase.seconds) {
      return absl::StrFormat("%.0f of %.0f requests/s were answered", RateOf(phase), rate);
    }
    return "";
  }

  // Half the capacity, the overload, and half again, as one phase: recovery begins with the overload's
  // backlog.
  void RunSteps(const Target& target, double capacity, LoadReport& report) {
    const OverloadSettings& overload = *settings_.overload;
    PhaseSettings settings = settings_.phase;
    const Clock::duration burst = settings.duration, calm = std::min(overload.calm, burst);
    const double rates[] = {kCalmLoad * capacity, overload.factor * capacity, kCalmLoad * capacity};
    const Clock::duration lengths[] = {calm, burst, calm};
    settings.cuts = {calm, calm + burst};
    settings.duration = calm + burst + calm;
    settings.count.reset();

    LoadPoint point;
    std::vector<RateStep> steps;
    for (int i = 0; i < 3; ++i) steps.push_back({rates[i], lengths[i]});
    steps[0].duration += settings.warmup;
    point.schedule = [arrivals = settings_.arrivals, steps, seed = settings_.seed] {
      return MakeSteps(arrivals, steps, seed);
    };
    point.rate = rates[1];
    point.label = "overload";
    PhaseResult phase = Run(target, point, settings);

    const char* const names[] = {"before", "overload", "after"};
    for (size_t i = 0; i < 3; ++i) {
      PointResult result{target.address(), target.transport(), point, 1, {}, {}};
      result.point.rate = rates[i];
      result.point.label = absl::StrFormat("%s, %.0f/s", names[i], rates[i]);
      result.phase.seconds = std::chrono::duration<double>(lengths[i]).count();
      result.phase.client_cpu = phase.client_cpu;
      result.phase.tally = std::move(phase.segments[i]);
      Judge(result);
      report.points.push_back(std::move(result));
    }
    const Tally& during = report.points[report.points.size() - 2].phase.tally;
    OverloadResult result{target.address(), capacity, rates[1], 0, 0, std::nullopt, std::nullopt};
    result.goodput = static_cast<double>(during.in_time) / std::chrono::duration<double>(burst).count();
    result.shed = static_cast<double>(during.failed(Reach::kAnswered)) /
                  static_cast<double>(std::max<int64_t>(during.attempted, 1));
    const int64_t in_time =
        settings.deadline ? std::chrono::duration_cast<Nanoseconds>(*settings.deadline).count() : INT64_MAX;
    const Tally& before = report.points[report.points.size() - 3].phase.tally;
    const int64_t as_before = kUsualSpread * before.latency.Percentile(99);
    result.recovery_seconds = Recovery(phase.tally.timeline, settings.cuts[1], in_time);
    result.latency_recovery_seconds =
        Recovery(phase.tally.timeline, settings.cuts[1], std::min(as_before, in_time));
    report.overloads.push_back(std::move(result));
  }

  // From the overload's end to the first of kHealthySlots in a row in which nothing failed or took longer
  // than `limit`.
  static std::optional<double> Recovery(const std::vector<TimelineSlot>& timeline,
                                        Clock::duration overload_end, int64_t limit) {
    const auto first = static_cast<size_t>(overload_end / kSlotWidth);
    size_t healthy = 0;
    for (size_t i = first; i < timeline.size(); ++i) {
      const TimelineSlot& slot = timeline[i];
      healthy = slot.failed == 0 && slot.max_latency <= limit ? healthy + 1 : 0;
      if (healthy == kHealthySlots) {
        return std::chrono::duration<double>(kSlotWidth).count() *
               static_cast<double>(i + 1 - kHealthySlots - first);
      }
    }
    return std::nullopt;
  }

  CountsByCode answered_;
  int64_t unanswered_ = 0;
  const std::vector<std::unique_ptr<Target>>& targets_;
  const Workload& workload_;
  const LoadTestSettings& settings_;
  Verifier* const verifier_;
  Observer& observer_;
};

std::string DescribeServer(const client::Client& client) {
  const auto info = client.GetServerInfo();
  if (!info.ok()) return "unknown";
  std::string text = absl::StrCat("tessera ", info->version());
  if (!info->commit().empty()) absl::StrAppend(&text, " (", info->commit(), ")");
  for (const v1::DeviceDescription& device : info->devices()) {
    absl::StrAppend(&text, ", ", device.id(), ": ", device.name());
  }
  return text;
}

}  // namespace

absl::StatusOr<LoadReport> RunLoadTest(const std::vector<std::unique_ptr<Target>>& targets,
                                       Workload& workload, const LoadTestSettings& settings,
                                       Observer& observer) {
  LoadReport report;
  report.workload = workload.Describe();
  report.server = DescribeServer(targets.front()->client());
  std::optional<Verifier> verifier;
  if (settings.verify > 0) {
    TESSERA_TRY(workload.PrepareReferences(targets.front()->client(), settings.oracle));
    verifier.emplace(workload, settings.verify);
  }
  CountsByCode before;
  if (!settings.metrics.empty()) {
    TESSERA_TRY_ASSIGN(before, ReadRequestsTotal(settings.metrics));
  }
  LoadTest test(targets, workload, settings, verifier ? &*verifier : nullptr, observer);
  if (settings.search) {
    for (const auto& target : targets) test.Search(*target, report);
  } else if (settings.overload) {
    for (const auto& target : targets) test.Overload(*target, report);
  } else {
    test.RunPoints(report);
  }
  if (!settings.metrics.empty()) {
    TESSERA_TRY_ASSIGN(report.totals, test.CompareTotals(before));
  }
  if (verifier) report.verification = verifier->Finish();
  return report;
}

LoadPoint ClosedPoint(int64_t concurrency) {
  return {concurrency, nullptr, 0, absl::StrCat("concurrency ", concurrency)};
}

LoadPoint OpenPoint(Arrivals arrivals, double rate, uint64_t seed) {
  const char* const name = arrivals == Arrivals::kPoisson ? "poisson" : "constant";
  return {0, [=] { return MakeSchedule(arrivals, rate, seed); }, rate,
          absl::StrFormat("%.6g/s %s", rate, name)};
}

LoadPoint TracePoint(const Trace& trace, double speed) {
  const std::string label = absl::StrFormat("trace of %d, speed %g", trace.size(), speed);
  return {0, [=] { return ReplayTrace(trace, speed); }, 0, label};
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

}  // namespace tessera::load
