/* Exports its ABI version but no entry. */
#include "tessera/backend.h"

uint32_t TESSERA_PLUGIN_ABI(void) { return TESSERA_ABI_VERSION; }
