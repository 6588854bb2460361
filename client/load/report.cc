#include "client/load/report.h"

#include <map>
#include <set>

#include "absl/strings/str_cat.h"

namespace tessera::load {

Throughput ThroughputOf(const PhaseResult& result) {
  const Tally& tally = result.tally;
  const auto rate = [&](double amount) { return amount / result.seconds; };
  return {rate(static_cast<double>(tally.ok)), rate(static_cast<double>(tally.in_time)),
          rate(static_cast<double>(tally.tokens)), rate(static_cast<double>(tally.flops)) / 1e12,
          rate(static_cast<double>(tally.tensor_bytes)) / 1e9};
}

std::string TargetName(const PointResult& point, const LoadReport& report) {
  std::map<std::string, std::set<std::string>> addresses;  // of each transport
  for (const PointResult& other : report.points) addresses[other.transport].insert(other.target);
  return addresses[point.transport].size() > 1 ? point.target : point.transport;
}

std::string Describe(const ErrorKey& key) {
  return absl::StrCat(ReachName(key.reach), ", ", key.code, ": ", key.reason);
}

}  // namespace tessera::load
