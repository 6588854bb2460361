#include "backend/core/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace tessera {
namespace {

constexpr int64_t kKiB = 1024;

// The number that a file begins with; nullopt where it is another word, or cannot be read.
std::optional<int64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  int64_t value;
  return file >> value ? std::optional(value) : std::nullopt;
}

// The number after `key` in a file of "key value" or "key: value" lines, as /proc/meminfo and memory.stat
// are.
std::optional<int64_t> NumberAfter(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t value;
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

}  // namespace

HostMemory ReadHostMemory() {
  const int64_t pages_total = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t pages_free = int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const auto available_kib = NumberAfter("/proc/meminfo", "MemAvailable:");
  HostMemory memory{.total_bytes = pages_total,
                    .available_bytes = available_kib ? *available_kib * kKiB : pages_free};

  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");  // "max" is no number: no limit
  const auto used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit && used && *limit < memory.total_bytes) {
    const int64_t reclaimable = NumberAfter("/sys/fs/cgroup/memory.stat", "inactive_file").value_or(0);
    memory.total_bytes = *limit;
    memory.available_bytes =
        std::min(memory.available_bytes, std::max<int64_t>(*limit - *used + reclaimable, 0));
  }
  return memory;
}

}  // namespace tessera
