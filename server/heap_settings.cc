#include "server/heap_settings.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace tessera {

void KeepFreedMemory() {
#ifdef __GLIBC__
  constexpr int kKeptBytes = 256 << 20;
  constexpr int kMappedBytes = 32 << 20;  // the most that glibc allows; HostBuffer recycles what is larger
  mallopt(M_TRIM_THRESHOLD, kKeptBytes);
  mallopt(M_MMAP_THRESHOLD, kMappedBytes);
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) mallopt(M_ARENA_MAX, std::max(CPU_COUNT(&cores), 1));
#endif
}

}  // namespace tessera
