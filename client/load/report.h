// A load test's results for people, programs, spreadsheets and browsers.
#pragma once

#include <string>
#include <vector>

#include "client/cli/proto_json.h"
#include "client/load/load_test.h"

namespace tessera::load {

inline constexpr double kPercentiles[] = {50, 90, 95, 99, 99.9};

// A terminal's: tables, errors, and the verdict on every point.
std::string FormatText(const LoadReport& report);

// What a search, an overload and the verification came to; "" without any.
std::string FormatConclusions(const LoadReport& report);

// Field names end in their units. Latencies are those of successful replies, from the scheduled send.
client::Json ToJson(const LoadReport& report);

// One line a point; the header names the columns.
std::string FormatCsv(const LoadReport& report);

// One file with its plots, which loads nothing from elsewhere.
std::string FormatHtml(const LoadReport& report);

// Figures that all of them show. Per second of the point's time.
struct Throughput {
  double requests, goodput, tokens, tflops, gigabytes;
};
Throughput ThroughputOf(const PhaseResult& result);

// "unix" or "tcp" where that tells the targets apart, else the address.
std::string TargetName(const PointResult& point, const LoadReport& report);

// "no answer, DEADLINE_EXCEEDED: Deadline Exceeded"
std::string Describe(const ErrorKey& key);

}  // namespace tessera::load
