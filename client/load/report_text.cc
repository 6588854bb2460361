#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/table.h"
#include "client/load/report.h"

namespace tessera::load {
namespace {

using client::TextTable;
using Align = TextTable::Align;

std::string Figure(double value) { return absl::StrFormat("%.3g", value); }
std::string Milliseconds(int64_t ns) { return client::HumanMilliseconds(static_cast<double>(ns) / 1e3); }

std::string Throughputs(const LoadReport& report) {
  TextTable table({{"target", Align::kLeft},
                   {"load", Align::kLeft},
                   {"requests/s"},
                   {"in time/s"},
                   {"tokens/s"},
                   {"TFLOP/s"},
                   {"GB/s"},
                   {"ok"},
                   {"failed"},
                   {"client CPU"}});
  for (const PointResult& point : report.points) {
    const Throughput rate = ThroughputOf(point.phase);
    table.AddRow({TargetName(point, report), point.point.label, absl::StrFormat("%.1f", rate.requests),
                  absl::StrFormat("%.1f", rate.goodput), client::HumanCount(rate.tokens), Figure(rate.tflops),
                  Figure(rate.gigabytes), absl::StrCat(point.phase.tally.ok),
                  absl::StrCat(point.phase.tally.failed()),
                  absl::StrFormat("%.0f%%", 100 * point.phase.client_cpu)});
  }
  return table.Format();
}

std::string Latencies(const LoadReport& report) {
  std::vector<TextTable::Column> columns{{"latency, ms", Align::kLeft}, {"load", Align::kLeft}};
  for (double percent : kPercentiles) columns.push_back({absl::StrFormat("p%g", percent)});
  columns.push_back({"max"});
  columns.push_back({"p99 from send"});
  columns.push_back({"p99 behind"});
  TextTable table(columns);
  for (const PointResult& point : report.points) {
    const Tally& tally = point.phase.tally;
    std::vector<std::string> row{TargetName(point, report), point.point.label};
    for (double percent : kPercentiles) row.push_back(Milliseconds(tally.latency.Percentile(percent)));
    row.push_back(Milliseconds(tally.latency.max()));
    row.push_back(Milliseconds(tally.service.Percentile(99)));
    row.push_back(Milliseconds(tally.lag.Percentile(99)));
    table.AddRow(std::move(row));
  }
  return table.Format();
}

std::string Times(const LoadReport& report) {
  TextTable table({{"mean time, ms", Align::kLeft},
                   {"load", Align::kLeft},
                   {"late"},
                   {"wire"},
                   {"queue"},
                   {"transfer"},
                   {"compute"},
                   {"server"},
                   {"sum"}});
  for (const PointResult& point : report.points) {
    const TimeSplit& t = point.phase.tally.time;
    const auto n = static_cast<double>(point.phase.tally.ledgers);
    if (n == 0) continue;
    std::vector<std::string> row{TargetName(point, report), point.point.label};
    for (double part : {t.client, t.wire, t.queue, t.transfer, t.compute, t.other, t.sum()}) {
      row.push_back(client::HumanMilliseconds(part / n));
    }
    table.AddRow(std::move(row));
  }
  return table.Format();
}

std::string Errors(const LoadReport& report) {
  TextTable table({{"errors", Align::kLeft}, {"load", Align::kLeft}, {"count"}, {"what", Align::kLeft}});
  bool any = false;
  for (const PointResult& point : report.points) {
    for (const auto& [key, count] : point.phase.tally.errors) {
      any = true;
      table.AddRow({TargetName(point, report), point.point.label, absl::StrCat(count), Describe(key)});
    }
  }
  return any ? absl::StrCat(table.Format(), "\n") : "";
}

std::string Verdicts(const LoadReport& report) {
  std::string text;
  for (const PointResult& point : report.points) {
    absl::StrAppend(&text, TargetName(point, report), ", ", point.point.label,
                    ": bottleneck: ", point.verdict.bottleneck, "\n    ",
                    client::Wrap(absl::StrJoin(point.verdict.reasons, "; "), 4), "\n");
  }
  return text;
}

}  // namespace

std::string FormatConclusions(const LoadReport& report) {
  std::string text;
  for (const SearchResult& search : report.searches) {
    if (search.held > 0) {
      absl::StrAppendFormat(&text, "\n%s: highest rate within the limit: %.0f requests/s", search.target,
                            search.held);
    } else {
      absl::StrAppendFormat(&text, "\n%s: no rate was within the limit", search.target);
    }
    if (search.failed > 0) {
      absl::StrAppendFormat(&text, "; %.0f/s was not (%s)", search.failed, search.why);
    }
    text += "\n";
  }
  for (const OverloadResult& overload : report.overloads) {
    absl::StrAppendFormat(
        &text,
        "\n%s: capacity %.0f/s; offered %.0f/s: %.0f%% refused, %.0f/s in time (%.0f%% of the "
        "capacity); recovery ",
        overload.target, overload.capacity, overload.offered, 100 * overload.shed, overload.goodput,
        100 * overload.goodput / overload.capacity);
    const auto seconds = [](const std::optional<double>& s) {
      return s ? absl::StrFormat("%.1f s", *s) : std::string("not seen");
    };
    absl::StrAppend(&text, seconds(overload.recovery_seconds), ", of latency too ",
                    seconds(overload.latency_recovery_seconds), "\n");
  }
  if (report.totals) {
    const TotalsComparison& totals = *report.totals;
    absl::StrAppend(&text, "\ntotals, warm-up included, ", totals.agree() ? "agree" : "DISAGREE", ":");
    for (const auto& [code, count] : totals.server) {
      if (count == 0) continue;
      const auto ours = totals.client.find(code);
      absl::StrAppend(&text, " ", code, " ", ours == totals.client.end() ? 0 : ours->second, " here and ",
                      count, " at the server;");
    }
    absl::StrAppendFormat(&text, " %d without an answer, of which %d reached the server\n", totals.unanswered,
                          totals.reached());
  }
  if (report.verification) {
    const VerifierReport& v = *report.verification;
    absl::StrAppendFormat(
        &text, "\nverified against the oracle: %d replies, %d wrong, %d left out; worst error %.1e\n",
        v.verified, v.wrong, v.dropped, v.worst.relative);
    if (v.wrong > 0) absl::StrAppend(&text, "FAILED: ", v.first_wrong, "\n");
  }
  return text;
}

std::string FormatText(const LoadReport& report) {
  return absl::StrCat(report.workload, "\n", report.server, "\n\n", Throughputs(report), "\n",
                      Latencies(report), "\n", Times(report), "\n", Errors(report), Verdicts(report),
                      FormatConclusions(report));
}

}  // namespace tessera::load
