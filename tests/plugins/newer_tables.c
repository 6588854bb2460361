/* A plugin of a later, compatible header: its tables are longer than the server's, its tessera_plugin ends
 * early. Writes nothing; what counts is that it loads and is called. */
#include <stddef.h>
#include <string.h>

#include "tessera/backend.h"

typedef struct longer_capabilities {
  tessera_capabilities known;
  uint64_t later_field;
} longer_capabilities;

typedef struct longer_backend_table {
  tessera_backend_table known;
  void (*later_function)(void);
} longer_backend_table;

static const longer_capabilities kCapabilities = {
    {sizeof(kCapabilities), TESSERA_FEATURE_ALL, 1u << TESSERA_DTYPE_FP32, 1u << TESSERA_DTYPE_FP32, 64, 8},
    ~0ull};

static tessera_code Supports(void* self, const tessera_attention_problem* problem, tessera_message* message) {
  (void)self;
  if (problem->num_sequences <= 1) return TESSERA_OK;
  strncpy(message->text, "more than one sequence is not supported; supported: 1", message->capacity);
  return TESSERA_UNIMPLEMENTED;
}

static tessera_code Plan(void* self, const tessera_attention_problem* problem, tessera_plan* plan,
                         tessera_message* message) {
  (void)self;
  (void)problem;
  (void)message;
  strcpy(plan->kernel, "newer");
  plan->tile_q = 64;
  plan->struct_size = 1 << 20; /* a lie that must not matter */
  return TESSERA_OK;
}

static tessera_code Enqueue(void* self, const tessera_plan* plan, const tessera_attention_problem* problem,
                            void* workspace, tessera_stream* stream, tessera_message* message) {
  (void)self;
  (void)problem;
  (void)workspace;
  (void)stream;
  (void)message;
  return plan->struct_size == sizeof(*plan) && plan->tile_q == 64 ? TESSERA_OK : TESSERA_INTERNAL;
}

static const longer_backend_table kBackend = {{sizeof(kBackend), NULL, "newer_tables", "of a later header",
                                               -1, &kCapabilities.known, Supports, Plan, Enqueue},
                                              NULL};

uint32_t TESSERA_PLUGIN_ABI(void) { return TESSERA_ABI_VERSION; }

tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host* host, tessera_plugin* plugin,
                                  tessera_message* message) {
  (void)host;
  (void)message;
  plugin->struct_size = offsetof(tessera_plugin, destroy);
  plugin->abi_version = TESSERA_ABI_VERSION;
  plugin->name = "newer_tables";
  plugin->version = "2.0";
  plugin->backend = &kBackend.known;
  return TESSERA_OK;
}
