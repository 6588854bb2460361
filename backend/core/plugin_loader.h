// Loads backend plugins: shared libraries with the C ABI of tessera/backend.h.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "backend/core/registry.h"

namespace tessera {

// Loads `path` and adds its backend (and its device, if it brings one) to `registry`; without a device of its
// own the backend runs on `host_device`, with the services of `host` (both outlive the registry). Runs the
// code of the library: load only what you trust. Fails, with `path` in the message and each with its own
// reason in the ErrorDetail, and leaves the registry as it was:
//   PLUGIN_NOT_FOUND           no such file
//   PLUGIN_NOT_LOADABLE        dlopen failed: not a shared library, missing dependency, ...
//   PLUGIN_NO_ENTRY            an entry symbol is missing: which
//   PLUGIN_ABI_MISMATCH        built for another ABI version: expected and actual
//   PLUGIN_CREATE_FAILED       its entry returned an error: code and message
//   PLUGIN_CREATE_THREW        its entry threw a C++ exception
//   PLUGIN_INVALID_TABLE       a required function, name or number is missing or impossible: which
//   PLUGIN_NAME_TAKEN          a backend or device of that name is already there
// Calls after that fail with reason PLUGIN_FAILED (the plugin's own code and message), PLUGIN_THREW (a C++
// exception; INTERNAL), PLUGIN_INVALID_PLAN or PLUGIN_INVALID_RESULT (what it returned cannot be; INTERNAL).
// The library stays loaded for the life of the process.
absl::Status LoadPlugin(const std::string& path, Device& host_device, const tessera_host& host,
                        BackendRegistry& registry);

}  // namespace tessera
