#include "backend/cpu/host_info.h"

#include <fstream>
#include <optional>
#include <sstream>

namespace tessera {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = kKiB * kKiB;

// The first line of a file; empty when it cannot be read.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A number such as "48K", "2048K" or "1M", in bytes.
std::optional<int64_t> ParseSize(const std::string& text) {
  std::istringstream words(text);
  int64_t value;
  char unit = 0;
  if (!(words >> value) || value <= 0) return std::nullopt;
  words >> unit;
  return value * (unit == 'M' ? kMiB : unit == 'K' ? kKiB : 1);
}

std::optional<int64_t> ReadNumber(const std::string& path) {
  std::istringstream words(FirstLine(path));
  int64_t value;
  return words >> value ? std::optional(value) : std::nullopt;
}

}  // namespace

std::string CpuModelName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

CacheSizes ReadCacheSizes(const std::string& directory) {
  CacheSizes sizes{.l2_bytes = 1 * kMiB, .last_level_bytes = 32 * kMiB};
  int64_t last_level = 0;
  for (int index = 0; index < 8; ++index) {
    const std::string cache = directory + "/index" + std::to_string(index);
    const std::optional<int64_t> level = ReadNumber(cache + "/level");
    const std::optional<int64_t> size = ParseSize(FirstLine(cache + "/size"));
    if (!level || !size || FirstLine(cache + "/type") == "Instruction") continue;
    if (*level == 2) sizes.l2_bytes = *size;
    if (*level >= 2 && *level >= last_level) {
      last_level = *level;
      sizes.last_level_bytes = *size;
    }
  }
  return sizes;
}

}  // namespace tessera
