// Its entry lets a C++ exception out.
#include <stdexcept>

#include "tessera/backend.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT uint32_t TESSERA_PLUGIN_ABI() { return TESSERA_ABI_VERSION; }

EXPORT tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host*, tessera_plugin*, tessera_message*) {
  throw std::runtime_error("the driver is too old");
}
