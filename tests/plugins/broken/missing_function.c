/* Its backend table ends before enqueue: what a table built against an older, shorter header would look like.
 */
#include "tessera/backend.h"

static const tessera_capabilities kCapabilities = {sizeof(kCapabilities),    0,  1u << TESSERA_DTYPE_FP32,
                                                   1u << TESSERA_DTYPE_FP32, 64, 1};

static tessera_code Plan(void* self, const tessera_attention_problem* problem, tessera_plan* plan,
                         tessera_message* message) {
  (void)self;
  (void)problem;
  (void)plan;
  (void)message;
  return TESSERA_OK;
}

/* Beyond struct_size there is no table any more, whatever bytes lie there. */
static tessera_code NotPartOfTheTable(void* self, const tessera_plan* plan,
                                      const tessera_attention_problem* problem, void* workspace,
                                      tessera_stream* stream, tessera_message* message) {
  (void)self;
  (void)plan;
  (void)problem;
  (void)workspace;
  (void)stream;
  (void)message;
  return TESSERA_OK;
}

static const tessera_backend_table kBackend = {offsetof(tessera_backend_table, enqueue),
                                               NULL,
                                               "missing_function",
                                               "has no enqueue",
                                               -1,
                                               &kCapabilities,
                                               NULL,
                                               Plan,
                                               NotPartOfTheTable};

uint32_t TESSERA_PLUGIN_ABI(void) { return TESSERA_ABI_VERSION; }

tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host* host, tessera_plugin* plugin,
                                  tessera_message* message) {
  (void)host;
  (void)message;
  plugin->abi_version = TESSERA_ABI_VERSION;
  plugin->name = "missing_function";
  plugin->version = "1.0";
  plugin->backend = &kBackend;
  return TESSERA_OK;
}
