// Loads backend plugins: shared libraries with the C ABI of tessera/backend.h.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "backend/core/registry.h"

namespace tessera {

// Loads `path` and adds its backend (and its device, if it brings one) to `registry`; without one of its own the
// backend runs on `host_device`, with the services of `host` (both outlive the registry). Fails, each with its own reason in the ErrorDetail and a message with `path`:
//   PLUGIN_NOT_FOUND           no such file
//   PLUGIN_NOT_LOADABLE        dlopen failed: not a shared library, missing dependency, ...
//   PLUGIN_NO_ENTRY            an entry symbol is missing
//   PLUGIN_ABI_MISMATCH        built for another ABI version: expected and actual
//   PLUGIN_CREATE_FAILED       its entry returned an error: code and message
//   PLUGIN_CREATE_THREW        its entry threw a C++ exception
//   PLUGIN_INVALID_TABLE       a required function or name is missing: which
//   PLUGIN_NAME_TAKEN          a backend of that name is already there
// A plugin function that throws later is caught and becomes INTERNAL with reason PLUGIN_THREW.
// The library stays loaded for the life of the process.
absl::Status LoadPlugin(const std::string& path, Device& host_device, const tessera_host& host,
                        BackendRegistry& registry);

}  // namespace tessera
