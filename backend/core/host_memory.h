// The memory that this process may use, as the operating system tells it.
#pragma once

#include <cstdint>

namespace tessera {

struct HostMemory {
  int64_t total_bytes;
  int64_t available_bytes;  // could be allocated now without swapping
};
// Of the machine, or of the control group where that has less.
HostMemory ReadHostMemory();

}  // namespace tessera
