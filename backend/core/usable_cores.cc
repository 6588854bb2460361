#include "backend/core/usable_cores.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <thread>

namespace tessera {
namespace {

// The control group's quota in cores, rounded up ("200000 100000" is 2); nullopt without one.
std::optional<int> QuotaCores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  int64_t quota, period;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;  // "max": no quota
  return static_cast<int>(std::min<int64_t>((quota + period - 1) / period, std::numeric_limits<int>::max()));
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  return std::max(1, std::min(cores, QuotaCores().value_or(cores)));
}

}  // namespace tessera
