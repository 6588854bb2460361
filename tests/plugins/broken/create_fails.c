/* Its entry fails, and fills the message buffer to the last byte, without a NUL. */
#include <string.h>

#include "tessera/backend.h"

uint32_t TESSERA_PLUGIN_ABI(void) { return TESSERA_ABI_VERSION; }

tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host* host, tessera_plugin* plugin,
                                  tessera_message* message) {
  static const char kReason[] = "no accelerator in slot 3\n";
  (void)host;
  (void)plugin;
  memset(message->text, '.', message->capacity);
  memcpy(message->text, kReason, sizeof(kReason) - 1);
  return TESSERA_UNAVAILABLE;
}
