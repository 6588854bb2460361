#include "client/load/verdict.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/table.h"

namespace tessera::load {
namespace {

// From here on a resource counts as used up.
constexpr double kBusy = 0.9;
// A generator this late, as a share of the median latency, measures itself.
constexpr double kLateShare = 0.25;
constexpr double kManySheds = 0.01;

std::string Percent(double share) { return absl::StrFormat("%.0f%%", 100 * share); }

struct Part {
  const char* name;
  double share;
  const char* meaning;
};

std::vector<Part> PartsOf(const TimeSplit& time) {
  const double sum = std::max(time.sum(), 1e-9);
  std::vector<Part> parts = {
      {"the load generator", time.client / sum, "before the request left, behind its schedule"},
      {"wire", time.wire / sum, "on the wire: gRPC, sockets and copies at both ends"},
      {"queue", time.queue / sum, "queued in the server, behind other requests"},
      {"transfer", time.transfer / sum, "moving tensors to and from the device"},
      {"compute", time.compute / sum, "in the backend's launch"},
      {"server", time.other / sum, "in the server, parsing, planning and building the reply"},
  };
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.share > b.share; });
  return parts;
}

int64_t Sheds(const Tally& tally) {
  int64_t sum = 0;
  for (const auto& [key, count] : tally.errors) {
    if (key.reach == Reach::kAnswered && key.code == "RESOURCE_EXHAUSTED") sum += count;
  }
  return sum;
}

}  // namespace

Verdict JudgeBottleneck(const PhaseResult& result, bool open, int cores) {
  const Tally& tally = result.tally;
  Verdict verdict;
  if (tally.ok == 0) {
    verdict.bottleneck = "none can be told";
    verdict.reasons.push_back("no request succeeded");
    return verdict;
  }
  const double cpu_share = result.client_cpu / std::max(1, cores);
  const double device_share = tally.device_busy * 1e-6 / result.seconds;
  const std::vector<Part> parts = PartsOf(tally.time);
  const auto late = static_cast<double>(tally.lag.Percentile(99));
  const bool is_late = late > kLateShare * static_cast<double>(tally.latency.Percentile(50));

  if (tally.failed(Reach::kNeverLeft) > 0) {
    verdict.bottleneck = "the load generator";
    verdict.reasons.push_back(absl::StrCat(client::Plural(tally.failed(Reach::kNeverLeft), "request"),
                                           " did not leave: --max-in-flight was reached"));
  } else if (cpu_share > kBusy && (is_late || device_share < kBusy)) {
    verdict.bottleneck = "the load generator";
    verdict.reasons.push_back(absl::StrCat("this process used ", Percent(cpu_share), " of its ",
                                           client::Plural(cores, "core"),
                                           ": the server may be able to do more"));
  } else if (device_share > kBusy) {
    verdict.bottleneck = "compute";
    verdict.reasons.push_back(
        absl::StrCat("the backend computed ", Percent(std::min(device_share, 1.0)), " of the time"));
  } else if (tally.ledgers > 0) {
    const bool met = open && tally.failed() == 0 && cpu_share <= kBusy;
    verdict.bottleneck =
        absl::StrCat(met ? "none at this rate, the latency is mostly " : "", parts.front().name);
  } else {
    verdict.bottleneck = "none can be told";
    verdict.reasons.push_back("the replies carry no ledger");
    return verdict;
  }
  for (const Part& part : parts) {
    if (part.share >= 0.1)
      verdict.reasons.push_back(absl::StrCat(Percent(part.share), " of the latency ", part.meaning));
  }
  if (device_share <= kBusy) {
    verdict.reasons.push_back(absl::StrCat("the backend computed ", Percent(device_share), " of the time"));
  }
  if (cpu_share <= kBusy) {
    verdict.reasons.push_back(
        absl::StrCat("this process used ", Percent(cpu_share), " of its ", client::Plural(cores, "core")));
  }
  if (const int64_t sheds = Sheds(tally);
      static_cast<double>(sheds) > kManySheds * static_cast<double>(tally.attempted)) {
    verdict.reasons.push_back(absl::StrCat(
        "the server shed ", Percent(static_cast<double>(sheds) / static_cast<double>(tally.attempted)),
        " of the requests"));
  }
  if (is_late) {
    verdict.reasons.push_back(absl::StrCat("1% of the requests left more than ",
                                           client::HumanMicroseconds(late / 1e3), " behind schedule"));
  }
  return verdict;
}

}  // namespace tessera::load
