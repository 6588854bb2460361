#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/load/report.h"

namespace tessera::load {
namespace {

using client::Json;

double Milliseconds(int64_t ns) { return static_cast<double>(ns) / 1e6; }

Json LatencyJson(const Histogram& histogram) {
  Json json;
  json["count"] = histogram.count();
  json["min"] = Milliseconds(histogram.min());
  json["mean"] = histogram.Mean() / 1e6;
  for (double percent : kPercentiles) {
    json[absl::StrFormat("p%g", percent)] = Milliseconds(histogram.Percentile(percent));
  }
  json["max"] = Milliseconds(histogram.max());
  return json;
}

Json TimeJson(const Tally& tally) {
  const double n = static_cast<double>(std::max<int64_t>(tally.ledgers, 1));
  const TimeSplit& t = tally.time;
  return {{"late", t.client / n},       {"wire", t.wire / n},       {"queue", t.queue / n},
          {"transfer", t.transfer / n}, {"compute", t.compute / n}, {"server", t.other / n}};
}

Json ErrorsJson(const Tally& tally) {
  Json errors = Json::array();
  for (const auto& [key, count] : tally.errors) {
    const auto message = tally.messages.find(key);
    errors.push_back({{"reach", ReachName(key.reach)},
                      {"code", key.code},
                      {"reason", key.reason},
                      {"count", count},
                      {"example", message == tally.messages.end() ? "" : message->second}});
  }
  return errors;
}

Json HistogramJson(const Histogram& histogram) {
  Json buckets = Json::array();
  for (const Histogram::Bucket& bucket : histogram.Buckets()) {
    buckets.push_back({Milliseconds(bucket.high), bucket.count});
  }
  return buckets;
}

Json TimelineJson(const Tally& tally) {
  Json slots = Json::array();
  for (const TimelineSlot& slot : tally.timeline) {
    slots.push_back({slot.attempted, slot.ok, slot.failed, Milliseconds(slot.max_latency)});
  }
  return slots;
}

Json PointJson(const PointResult& point) {
  const Tally& tally = point.phase.tally;
  const Throughput rate = ThroughputOf(point.phase);
  Json json;
  json["target"] = point.target;
  json["transport"] = point.transport;
  json["load"] = point.point.label;
  json["loop"] = point.point.open() ? "open" : "closed";
  if (point.point.open()) {
    json["offered_per_s"] = point.point.rate;
  } else {
    json["concurrency"] = point.point.concurrency;
  }
  json["rounds"] = point.rounds;
  json["seconds"] = point.phase.seconds;
  json["client_cpu_cores"] = point.phase.client_cpu;
  json["requests"] = {{"due", tally.attempted},
                      {"ok", tally.ok},
                      {"ok_in_time", tally.in_time},
                      {"refused_by_server", tally.failed(Reach::kAnswered)},
                      {"no_answer", tally.failed(Reach::kNoAnswer)},
                      {"not_sent", tally.failed(Reach::kNeverLeft)}};
  json["throughput"] = {{"requests_per_s", rate.requests},
                        {"ok_in_time_per_s", rate.goodput},
                        {"tokens_per_s", rate.tokens},
                        {"tflop_per_s", rate.tflops},
                        {"tensor_gb_per_s", rate.gigabytes}};
  json["latency_ms"] = LatencyJson(tally.latency);
  json["latency_from_send_ms"] = LatencyJson(tally.service);
  json["send_lag_ms"] = LatencyJson(tally.lag);
  json["mean_time_us"] = TimeJson(tally);
  json["errors"] = ErrorsJson(tally);
  json["bottleneck"] = {{"what", point.verdict.bottleneck}, {"reasons", point.verdict.reasons}};
  json["latency_histogram_ms"] = HistogramJson(tally.latency);
  json["timeline_100ms"] = TimelineJson(tally);
  return json;
}

Json SearchJson(const SearchResult& search) {
  return {{"target", search.target},
          {"highest_rate_within_limit_per_s", search.held},
          {"lowest_rate_beyond_per_s", search.failed},
          {"why", search.why}};
}

Json OverloadJson(const OverloadResult& overload) {
  Json json{{"target", overload.target},
            {"capacity_per_s", overload.capacity},
            {"offered_per_s", overload.offered},
            {"ok_in_time_per_s", overload.goodput},
            {"refused_share", overload.shed}};
  const auto seconds = [](const std::optional<double>& s) { return s ? Json(*s) : Json(nullptr); };
  json["recovery_s"] = seconds(overload.recovery_seconds);
  json["latency_recovery_s"] = seconds(overload.latency_recovery_seconds);
  return json;
}

std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

}  // namespace

Json ToJson(const LoadReport& report) {
  Json json;
  json["format"] = "tessera-load-1";
  json["workload"] = report.workload;
  json["server"] = report.server;
  json["points"] = Json::array();
  for (const PointResult& point : report.points) json["points"].push_back(PointJson(point));
  for (const SearchResult& search : report.searches) json["searches"].push_back(SearchJson(search));
  for (const OverloadResult& overload : report.overloads) json["overloads"].push_back(OverloadJson(overload));
  if (report.totals) {
    json["totals"] = {{"client_answered", report.totals->client},
                      {"server", report.totals->server},
                      {"unanswered", report.totals->unanswered},
                      {"unanswered_that_reached_the_server", report.totals->reached()},
                      {"agree", report.totals->agree()}};
  }
  if (report.verification) {
    const VerifierReport& v = *report.verification;
    json["verification"] = {{"verified", v.verified},
                            {"wrong", v.wrong},
                            {"left_out", v.dropped},
                            {"worst_relative_error", v.worst.relative},
                            {"first_wrong", v.first_wrong}};
  }
  return json;
}

std::string FormatCsv(const LoadReport& report) {
  std::string csv =
      "target,load,loop,seconds,requests_per_s,ok_in_time_per_s,tokens_per_s,tflop_per_s,tensor_gb_per_s";
  for (double percent : kPercentiles) absl::StrAppendFormat(&csv, ",p%g_ms", percent);
  csv +=
      ",max_ms,due,ok,refused_by_server,no_answer,not_sent,late_us,wire_us,queue_us,transfer_us,compute_us,"
      "server_us,bottleneck\n";
  for (const PointResult& point : report.points) {
    const Tally& tally = point.phase.tally;
    const Throughput rate = ThroughputOf(point.phase);
    absl::StrAppendFormat(&csv, "%s,%s,%s,%.3f,%.6g,%.6g,%.6g,%.6g,%.6g", Quoted(point.target),
                          Quoted(point.point.label), point.point.open() ? "open" : "closed",
                          point.phase.seconds, rate.requests, rate.goodput, rate.tokens, rate.tflops,
                          rate.gigabytes);
    for (double percent : kPercentiles) {
      absl::StrAppendFormat(&csv, ",%.6g", Milliseconds(tally.latency.Percentile(percent)));
    }
    const double n = static_cast<double>(std::max<int64_t>(tally.ledgers, 1));
    const TimeSplit& t = tally.time;
    absl::StrAppendFormat(&csv, ",%.6g,%d,%d,%d,%d,%d", Milliseconds(tally.latency.max()), tally.attempted,
                          tally.ok, tally.failed(Reach::kAnswered), tally.failed(Reach::kNoAnswer),
                          tally.failed(Reach::kNeverLeft));
    for (double part : {t.client, t.wire, t.queue, t.transfer, t.compute, t.other}) {
      absl::StrAppendFormat(&csv, ",%.6g", part / n);
    }
    absl::StrAppend(&csv, ",", Quoted(point.verdict.bottleneck), "\n");
  }
  return csv;
}

}  // namespace tessera::load
