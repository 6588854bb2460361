// One loaded plugin, as its adapters (PluginBackend, PluginDevice) share it: guarded calls into it, and its
// end.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tessera/backend.h"

namespace tessera {

// The fields of `theirs` that its struct_size says are there and that we know; the others are zero.
template <typename Struct>
Struct KnownPrefix(const Struct* theirs) {
  Struct ours{};
  std::memcpy(static_cast<void*>(&ours), theirs, std::min<size_t>(theirs->struct_size, sizeof(Struct)));
  return ours;
}

// Text that a plugin wrote, up to the first NUL and at most `capacity` bytes: printable ASCII, every other
// byte becomes '?', so that it can go into logs, protobuf strings and headers. Empty for NULL.
std::string PluginText(const char* text, size_t capacity);

// INTERNAL, reason PLUGIN_THREW.
absl::Status PluginThrew(const std::string& name, const char* function, const std::string& what);
// INTERNAL, "<name>: <function> gave <field>: expected <expected>, got <actual>".
absl::Status PluginInvalid(const std::string& reason, const std::string& name, const char* function,
                           const std::string& field, const std::string& expected, const std::string& actual);

// Calls `call` with a fresh message buffer and makes a Status of what comes back, with "<name>: <function>: "
// before its message: its code (INTERNAL for one that tessera_code does not list) with reason PLUGIN_FAILED;
// for a C++ exception PluginThrew.
absl::Status CallPlugin(const std::string& name, const char* function,
                        absl::FunctionRef<tessera_code(tessera_message*)> call);

// Calls a function that cannot report failure. An exception ends here: there is nobody to tell.
void CallPluginQuietly(absl::FunctionRef<void()> call) noexcept;

// Owns what the plugin's entry created; shared by the adapters, so that the plugin's destroy() runs after the
// last of them is gone.
class PluginInstance {
 public:
  PluginInstance(void* self, void (*destroy)(void*)) : self_(self), destroy_(destroy) {}
  ~PluginInstance() {
    if (destroy_ != nullptr) CallPluginQuietly([this] { destroy_(self_); });
  }
  PluginInstance(const PluginInstance&) = delete;
  PluginInstance& operator=(const PluginInstance&) = delete;

 private:
  void* const self_;
  void (*const destroy_)(void*);
};

}  // namespace tessera
