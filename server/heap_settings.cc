#include "server/heap_settings.h"

#include <cstdlib>

#include "backend/core/usable_cores.h"

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
  mallopt(M_ARENA_MAX, UsableCores());
#endif
}

}  // namespace tessera
