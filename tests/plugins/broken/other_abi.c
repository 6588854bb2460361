/* Says that it was built for plugin ABI 0.999; the server must then leave its entry alone. */
#include <stdlib.h>

#include "tessera/backend.h"

uint32_t TESSERA_PLUGIN_ABI(void) { return 999; }

tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host* host, tessera_plugin* plugin,
                                  tessera_message* message) {
  (void)host;
  (void)plugin;
  (void)message;
  abort();
}
