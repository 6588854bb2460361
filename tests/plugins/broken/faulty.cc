// Misbehaves in one way: an impossible table, or one call. Built once for each value of FAULT; the plugin's
// name is NAME.
#include <cstring>
#include <stdexcept>

#include "tessera/backend.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum class Fault {
  kNoDTypes,
  kIncompleteDevice,
  kPlanFails,
  kPlanAbsurd,
  kPlanUnterminated,
  kModelFails,
  kModelAbsurd,
  kEnqueueFails,
  kEnqueueThrows,
  kUnknownCode
};
constexpr Fault kFault = Fault::FAULT;

tessera_code Fail(tessera_code code, const char* text, tessera_message* message) {
  std::strncpy(message->text, text, message->capacity - 1);
  return code;
}

tessera_code Plan(void*, const tessera_attention_problem*, tessera_plan* plan, tessera_message* message) {
  std::strcpy(plan->kernel, NAME);
  plan->launches = 1;
  if (kFault == Fault::kPlanFails) return Fail(TESSERA_RESOURCE_EXHAUSTED, "no tile fits", message);
  if (kFault == Fault::kPlanAbsurd) plan->workspace_bytes = -4096;
  if (kFault == Fault::kPlanUnterminated) std::memset(plan->kernel, 'k', sizeof(plan->kernel));
  return TESSERA_OK;
}

tessera_code Enqueue(void*, const tessera_plan*, const tessera_attention_problem*, void*, tessera_stream*,
                     tessera_message* message) {
  switch (kFault) {
    case Fault::kEnqueueFails:
      return Fail(TESSERA_UNAVAILABLE, "the accelerator fell off the bus", message);
    case Fault::kEnqueueThrows:
      throw std::out_of_range("tile 7 of 4");
    case Fault::kUnknownCode:
      return Fail(static_cast<tessera_code>(4242), "lost", message);
    default:
      return TESSERA_OK;
  }
}

tessera_code ModelTraffic(void*, const tessera_plan*, const tessera_attention_problem*,
                          tessera_traffic* traffic, tessera_message* message) {
  if (kFault == Fault::kModelFails) return Fail(TESSERA_OUT_OF_RANGE, "too long a walk", message);
  if (kFault == Fault::kModelAbsurd) traffic->write_bytes = -1;
  return TESSERA_OK;
}

constexpr uint32_t kDTypes = 1u << TESSERA_DTYPE_FP32 | 1u << TESSERA_DTYPE_FP16 | 1u << TESSERA_DTYPE_BF16;
const tessera_capabilities kCapabilities = {
    sizeof(kCapabilities), TESSERA_FEATURE_ALL, kFault == Fault::kNoDTypes ? 0 : kDTypes, kDTypes, 1024, 1};
const tessera_device_table kDevice = {sizeof(kDevice), nullptr, "broken:0"};
const tessera_backend_table kBackend = {
    sizeof(kBackend), nullptr,     NAME, "misbehaves, for tests", -1, &kCapabilities, nullptr, Plan,
    Enqueue,          ModelTraffic};

}  // namespace

EXPORT uint32_t TESSERA_PLUGIN_ABI() { return TESSERA_ABI_VERSION; }

EXPORT tessera_code TESSERA_PLUGIN_ENTRY(const tessera_host*, tessera_plugin* plugin, tessera_message*) {
  *plugin = {sizeof(*plugin), TESSERA_ABI_VERSION, NAME,
             "1.0",           &kBackend,           kFault == Fault::kIncompleteDevice ? &kDevice : nullptr,
             nullptr};
  return TESSERA_OK;
}
