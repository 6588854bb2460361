// What the operating system says about this machine: processor and caches.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

// "Intel(R) Xeon(R) Platinum 8480C"; "unknown processor" where /proc/cpuinfo does not say.
std::string CpuModelName();

struct CacheSizes {
  int64_t l2_bytes;          // of one core
  int64_t last_level_bytes;  // shared by the cores of a socket
};
// Reads the cache descriptions below `directory`. 1 MiB and 32 MiB stand in for what is missing there (some
// virtual machines describe no caches).
CacheSizes ReadCacheSizes(const std::string& directory = "/sys/devices/system/cpu/cpu0/cache");

}  // namespace tessera
