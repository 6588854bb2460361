#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/table.h"
#include "client/load/chart.h"
#include "client/load/report.h"

namespace tessera::load {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.about { opacity: .75; } .wide { overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; } svg .title { font-size: 14px; font-weight: 600; }
svg .grid { stroke: currentColor; opacity: .15; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child, .left { text-align: left; }
)";

double Milliseconds(int64_t ns) { return static_cast<double>(ns) / 1e6; }

std::string NameOf(const PointResult& point, const LoadReport& report) {
  return absl::StrCat(TargetName(point, report), ", ", point.point.label);
}

// A table whose first cell of each row, and the header's, is given with the rest.
std::string Table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows) {
  std::string html = "<div class=\"wide\"><table><tr>";
  for (const std::string& cell : header) absl::StrAppend(&html, "<th>", EscapeHtml(cell), "</th>");
  html += "</tr>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (const std::string& cell : row) absl::StrAppend(&html, "<td>", EscapeHtml(cell), "</td>");
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string Results(const LoadReport& report) {
  std::vector<std::string> header{"load", "requests/s", "in time/s", "tokens/s", "TFLOP/s", "GB/s"};
  for (double percent : kPercentiles) header.push_back(absl::StrFormat("p%g ms", percent));
  header.insert(header.end(), {"max ms", "ok", "failed"});
  std::vector<std::vector<std::string>> rows;
  for (const PointResult& point : report.points) {
    const Throughput rate = ThroughputOf(point.phase);
    const Tally& tally = point.phase.tally;
    std::vector<std::string> row{NameOf(point, report),
                                 absl::StrFormat("%.1f", rate.requests),
                                 absl::StrFormat("%.1f", rate.goodput),
                                 client::HumanCount(rate.tokens),
                                 absl::StrFormat("%.3g", rate.tflops),
                                 absl::StrFormat("%.3g", rate.gigabytes)};
    for (double percent : kPercentiles) {
      row.push_back(client::HumanMilliseconds(static_cast<double>(tally.latency.Percentile(percent)) / 1e3));
    }
    row.push_back(client::HumanMilliseconds(static_cast<double>(tally.latency.max()) / 1e3));
    row.push_back(absl::StrCat(tally.ok));
    row.push_back(absl::StrCat(tally.failed()));
    rows.push_back(std::move(row));
  }
  return Table(header, rows);
}

// Percentiles on an axis that gives each further nine the same room.
std::string LatencyChart(const LoadReport& report) {
  Axis x{"percentile", true, {}};
  for (double percent : {0.0, 90.0, 99.0, 99.9, 99.99, 99.999}) {
    x.ticks.emplace_back(100 / (100 - percent), absl::StrFormat("%g", percent));
  }
  std::vector<Series> series;
  double farthest = 10;
  for (const PointResult& point : report.points) {
    const Histogram& histogram = point.phase.tally.latency;
    Series one{NameOf(point, report), {}, false, static_cast<int>(series.size())};
    int64_t seen = 0;
    for (const Histogram::Bucket& bucket : histogram.Buckets()) {
      const double before = static_cast<double>(seen) / static_cast<double>(histogram.count());
      seen += bucket.count;
      const double place = 1 / (1 - before);
      // Hundreds of points a decade would only swell the file.
      if (one.points.empty() || place > 1.02 * one.points.back().first) {
        one.points.emplace_back(place, std::max(Milliseconds(bucket.high), 1e-3));
      }
    }
    if (!one.points.empty()) farthest = std::max(farthest, one.points.back().first);
    series.push_back(std::move(one));
  }
  std::erase_if(x.ticks, [&](const auto& tick) { return tick.first > farthest * 1.001; });
  return LineChart("Latency distribution", x, {"latency, ms", true, {}}, series);
}

// p50 and p99 of each target over what it delivered.
std::string ThroughputChart(const LoadReport& report) {
  std::vector<Series> series;
  std::vector<std::string> targets;
  for (const PointResult& point : report.points) {
    const std::string target = TargetName(point, report);
    if (std::find(targets.begin(), targets.end(), target) == targets.end()) targets.push_back(target);
  }
  for (size_t t = 0; t < targets.size(); ++t) {
    for (double percent : {50.0, 99.0}) {
      Series one{absl::StrFormat("%s, p%g", targets[t], percent), {}, percent == 99, static_cast<int>(t)};
      for (const PointResult& point : report.points) {
        if (TargetName(point, report) != targets[t] || point.phase.tally.ok == 0) continue;
        one.points.emplace_back(ThroughputOf(point.phase).requests,
                                std::max(Milliseconds(point.phase.tally.latency.Percentile(percent)), 1e-3));
      }
      series.push_back(std::move(one));
    }
  }
  return LineChart("Throughput against latency", {"requests/s", false, {}}, {"latency, ms", true, {}},
                   series);
}

std::string TimeChart(const LoadReport& report) {
  std::vector<Bar> bars;
  for (const PointResult& point : report.points) {
    const Tally& tally = point.phase.tally;
    if (tally.ledgers == 0) continue;
    const double n = static_cast<double>(tally.ledgers) * 1e3;
    const TimeSplit& t = tally.time;
    bars.push_back({NameOf(point, report),
                    {{"late send", t.client / n},
                     {"wire", t.wire / n},
                     {"queue", t.queue / n},
                     {"transfer", t.transfer / n},
                     {"compute", t.compute / n},
                     {"server", t.other / n}}});
  }
  return StackedBars("Where the time goes, mean", "ms", bars);
}

std::string TimelineChart(const LoadReport& report) {
  std::vector<Series> series;
  for (const PointResult& point : report.points) {
    Series one{NameOf(point, report), {}, false, static_cast<int>(series.size())};
    const auto& slots = point.phase.tally.timeline;
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].ok == 0) continue;
      one.points.emplace_back(static_cast<double>(i) * 0.1,
                              std::max(Milliseconds(slots[i].max_latency), 1e-3));
    }
    series.push_back(std::move(one));
  }
  return LineChart("Worst latency of each tenth of a second", {"scheduled, s after the warm-up", false, {}},
                   {"latency, ms", true, {}}, series);
}

std::string Verdicts(const LoadReport& report) {
  std::string html = "<ul>\n";
  for (const PointResult& point : report.points) {
    absl::StrAppend(&html, "<li>", EscapeHtml(NameOf(point, report)),
                    ": <b>bottleneck: ", EscapeHtml(point.verdict.bottleneck), "</b>. ",
                    EscapeHtml(absl::StrJoin(point.verdict.reasons, "; ")), ".</li>\n");
  }
  return html + "</ul>\n";
}

std::string Errors(const LoadReport& report) {
  std::vector<std::vector<std::string>> rows;
  for (const PointResult& point : report.points) {
    for (const auto& [key, count] : point.phase.tally.errors) {
      rows.push_back({NameOf(point, report), absl::StrCat(count), Describe(key)});
    }
  }
  return rows.empty() ? "<p>None.</p>\n" : Table({"load", "count", "what"}, rows);
}

}  // namespace

std::string FormatHtml(const LoadReport& report) {
  std::string html = absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width\"><title>tessera load</title>\n<style>",
      kStyle, "</style></head><body>\n<h1>Load test</h1>\n<p class=\"about\">", EscapeHtml(report.workload),
      "<br>", EscapeHtml(report.server), "</p>\n", Results(report),
      "<h2>Plots</h2>\n<div class=\"charts\">\n", LatencyChart(report), ThroughputChart(report),
      TimeChart(report), TimelineChart(report), "</div>\n<h2>Bottlenecks</h2>\n", Verdicts(report),
      "<h2>Errors</h2>\n", Errors(report));
  const std::string conclusions = FormatConclusions(report);
  if (!conclusions.empty()) {
    absl::StrAppend(&html, "<h2>Conclusions</h2>\n<pre>", EscapeHtml(conclusions), "</pre>\n");
  }
  return html + "</body></html>\n";
}

}  // namespace tessera::load
