#include "client/load/phase.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "client/load/worker.h"

namespace tessera::load {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

PhaseResult RunPhase(const Target& target, const Workload& workload, const PhaseSettings& settings,
                     Verifier* verifier, LiveCounters& live) {
  const double cpu_before = CpuSeconds();
  PhaseState phase(target, workload, settings, verifier, live);
  std::vector<std::unique_ptr<Worker>> workers;
  for (int i = 0; i < settings.threads; ++i) workers.push_back(std::make_unique<Worker>(phase, i));
  std::vector<std::thread> threads;
  for (const auto& worker : workers) threads.emplace_back([&worker] { worker->Run(); });
  for (std::thread& thread : threads) thread.join();

  PhaseResult result;
  result.segments.resize(settings.cuts.size() + 1);
  for (const auto& worker : workers) {
    for (size_t i = 0; i < result.segments.size(); ++i) result.segments[i].Merge(worker->segments()[i]);
  }
  for (const Tally& segment : result.segments) result.tally.Merge(segment);
  if (settings.cuts.empty()) result.segments.clear();
  // A phase that a count or a trace ends is as long as it took; any other lasts to its end at least.
  const bool ends_by_itself = settings.count || (settings.point.open() && settings.point.rate == 0);
  Clock::time_point until = result.tally.last;
  if (!ends_by_itself) until = std::max(until, phase.end);
  result.seconds = std::max(Seconds(until - phase.measure_from), 1e-9);
  result.client_cpu = (CpuSeconds() - cpu_before) / std::max(Seconds(Clock::now() - phase.start), 1e-9);
  return result;
}

}  // namespace tessera::load
