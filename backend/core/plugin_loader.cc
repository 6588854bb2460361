#include "backend/core/plugin_loader.h"

#include <dlfcn.h>

#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "backend/core/plugin_backend.h"
#include "backend/core/plugin_device.h"
#include "backend/core/plugin_instance.h"

namespace tessera {
namespace {

constexpr size_t kMaxNameBytes = 64;
constexpr size_t kMaxDescriptionBytes = 512;

// The errors of loading one library; every message begins with its path.
struct Loading {
  std::string path;

  std::string Subject() const { return absl::StrCat("plugin \"", path, "\""); }

  absl::Status Error(absl::StatusCode code, std::string reason, const std::string& what,
                     std::map<std::string, std::string> metadata = {}) const {
    metadata["path"] = path;
    return MakeError(
        code, absl::StrCat(Subject(), ": ", what),
        {.reason = std::move(reason), .metadata = std::move(metadata), .retry_after = std::nullopt});
  }

  absl::Status InvalidTable(const std::string& field, const std::string& expected,
                            const std::string& actual) const {
    return Error(absl::StatusCode::kFailedPrecondition, "PLUGIN_INVALID_TABLE",
                 absl::StrCat(field, ": expected ", expected, ", got ", actual),
                 {{"field", field}, {"expected", expected}, {"actual", actual}});
  }

  absl::Status NameTaken(const std::string& kind, const std::string& name) const {
    return Error(absl::StatusCode::kAlreadyExists, "PLUGIN_NAME_TAKEN",
                 absl::StrCat("there is a ", kind, " named \"", name, "\" already"),
                 {{"field", kind}, {"expected", "a new name"}, {"actual", name}});
  }
};

struct EntryPoints {
  tessera_plugin_abi_fn abi;
  tessera_plugin_create_fn create;
};

template <typename Function>
absl::Status FindSymbol(const Loading& loading, void* library, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (function != nullptr) return absl::OkStatus();
  return loading.Error(absl::StatusCode::kFailedPrecondition, "PLUGIN_NO_ENTRY",
                       absl::StrCat("does not export \"", symbol, "\": not a Tessera backend plugin"),
                       {{"expected", symbol}, {"actual", "no such symbol"}});
}

absl::StatusOr<EntryPoints> OpenLibrary(const Loading& loading) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(loading.path, error);
  if (error || !std::filesystem::exists(path, error)) {
    return loading.Error(absl::StatusCode::kNotFound, "PLUGIN_NOT_FOUND",
                         error ? absl::StrCat("no such file: ", error.message()) : "no such file",
                         {{"expected", "a shared library"}, {"actual", "no such file"}});
  }
  // By its absolute path: dlopen would look a bare file name up in the library search path.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    const std::string reason = why != nullptr ? why : "dlopen failed";
    return loading.Error(absl::StatusCode::kFailedPrecondition, "PLUGIN_NOT_LOADABLE",
                         absl::StrCat("cannot be loaded as a shared library: ", reason),
                         {{"expected", "a shared library"}, {"actual", reason}});
  }
  EntryPoints entry{};
  TESSERA_RETURN_IF_ERROR(FindSymbol(loading, library, TESSERA_PLUGIN_ABI_NAME, entry.abi));
  TESSERA_RETURN_IF_ERROR(FindSymbol(loading, library, TESSERA_PLUGIN_ENTRY_NAME, entry.create));
  return entry;
}

std::string AbiName(uint32_t version) { return absl::StrCat(version >> 16, ".", version & 0xffffu); }

absl::Status CheckAbi(const Loading& loading, uint32_t version) {
  if (version == TESSERA_ABI_VERSION) return absl::OkStatus();
  const std::string expected = AbiName(TESSERA_ABI_VERSION);
  const std::string actual = AbiName(version);
  return loading.Error(absl::StatusCode::kFailedPrecondition, "PLUGIN_ABI_MISMATCH",
                       absl::StrCat("built for plugin ABI ", actual, "; expected ", expected,
                                    ": rebuild it with this server's headers"),
                       {{"expected", expected}, {"actual", actual}});
}

// The failure of a call made while loading, with the reason that says so.
absl::Status CreateError(const absl::Status& status) {
  ErrorDetail detail = GetErrorDetail(status).value_or(ErrorDetail{});
  detail.reason = detail.reason == "PLUGIN_THREW" ? "PLUGIN_CREATE_THREW" : "PLUGIN_CREATE_FAILED";
  return MakeError(status.code(), std::string(status.message()), std::move(detail));
}

// What the entry handed over, with known prefixes only.
struct Created {
  std::shared_ptr<const PluginInstance> instance;
  std::string name_and_version;  // of the plugin
  tessera_backend_table backend{};
  tessera_capabilities capabilities{};
  const tessera_device_table* device = nullptr;
};

absl::StatusOr<Created> CreateInstance(const Loading& loading, const EntryPoints& entry,
                                       const tessera_host& host) {
  uint32_t abi = 0;
  absl::Status status = CallPlugin(loading.Subject(), TESSERA_PLUGIN_ABI_NAME, [&](tessera_message*) {
    abi = entry.abi();
    return TESSERA_OK;
  });
  if (!status.ok()) return CreateError(status);
  TESSERA_RETURN_IF_ERROR(CheckAbi(loading, abi));

  tessera_plugin plugin{};
  plugin.struct_size = sizeof(plugin);
  status = CallPlugin(loading.Subject(), TESSERA_PLUGIN_ENTRY_NAME,
                      [&](tessera_message* message) { return entry.create(&host, &plugin, message); });
  if (!status.ok()) return CreateError(status);
  if (plugin.backend == nullptr) return loading.InvalidTable("backend", "a table", "NULL");

  Created created;
  created.backend = KnownPrefix(plugin.backend);
  created.instance = std::make_shared<PluginInstance>(created.backend.self, plugin.destroy);
  created.device = plugin.device;
  created.name_and_version =
      absl::StrCat(PluginText(plugin.name, kMaxNameBytes), " ", PluginText(plugin.version, kMaxNameBytes));
  TESSERA_RETURN_IF_ERROR(CheckAbi(loading, plugin.abi_version));
  if (created.backend.capabilities == nullptr) {
    return loading.InvalidTable("backend.capabilities", "a struct", "NULL");
  }
  created.capabilities = KnownPrefix(created.backend.capabilities);
  return created;
}

struct Requirement {
  const char* field;
  bool present;
};

absl::Status CheckFunctions(const Loading& loading, const std::string& table, uint32_t struct_size,
                            std::initializer_list<Requirement> required) {
  for (const Requirement& requirement : required) {
    if (requirement.present) continue;
    return loading.InvalidTable(absl::StrCat(table, ".", requirement.field), "a pointer",
                                absl::StrCat("NULL (table of ", struct_size, " bytes)"));
  }
  return absl::OkStatus();
}

absl::Status CheckBackend(const Loading& loading, const Created& created) {
  const tessera_backend_table& backend = created.backend;
  TESSERA_RETURN_IF_ERROR(CheckFunctions(loading, "backend", backend.struct_size,
                                         {{"name", backend.name != nullptr},
                                          {"plan", backend.plan != nullptr},
                                          {"enqueue", backend.enqueue != nullptr}}));
  const tessera_capabilities& can = created.capabilities;
  if (can.input_dtypes == 0) return loading.InvalidTable("capabilities.input_dtypes", "a dtype", "none");
  if (can.output_dtypes == 0) return loading.InvalidTable("capabilities.output_dtypes", "a dtype", "none");
  if (can.max_head_dim < 1) {
    return loading.InvalidTable("capabilities.max_head_dim", "1 or more", absl::StrCat(can.max_head_dim));
  }
  if (can.head_dim_multiple < 1) {
    return loading.InvalidTable("capabilities.head_dim_multiple", "1 or more",
                                absl::StrCat(can.head_dim_multiple));
  }
  return absl::OkStatus();
}

bool IsDeviceName(std::string_view name) {
  if (name.empty() || !absl::ascii_islower(name[0])) return false;
  for (const char c : name) {
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '_' && c != ':') return false;
  }
  return true;
}

absl::StatusOr<std::unique_ptr<PluginDevice>> MakeDevice(const Loading& loading, const Created& created,
                                                         const Device& host_device,
                                                         const BackendRegistry& registry) {
  const tessera_device_table table = KnownPrefix(created.device);
  TESSERA_RETURN_IF_ERROR(CheckFunctions(loading, "device", table.struct_size,
                                         {{"name", table.name != nullptr},
                                          {"info", table.info != nullptr},
                                          {"allocate", table.allocate != nullptr},
                                          {"free", table.free != nullptr},
                                          {"stream_create", table.stream_create != nullptr},
                                          {"stream_destroy", table.stream_destroy != nullptr},
                                          {"copy_async", table.copy_async != nullptr},
                                          {"event_create", table.event_create != nullptr},
                                          {"event_destroy", table.event_destroy != nullptr},
                                          {"event_record", table.event_record != nullptr},
                                          {"stream_wait_event", table.stream_wait_event != nullptr},
                                          {"event_synchronize", table.event_synchronize != nullptr},
                                          {"event_elapsed_us", table.event_elapsed_us != nullptr}}));
  const std::string name = PluginText(table.name, kMaxNameBytes);
  if (!IsDeviceName(name)) {
    return loading.InvalidTable("device.name", "[a-z][a-z0-9_:]*", absl::StrCat("\"", name, "\""));
  }
  if (host_device.id() == name) return loading.NameTaken("device", name);
  for (const Device* device : registry.devices()) {
    if (device->id() == name) return loading.NameTaken("device", name);
  }
  return std::make_unique<PluginDevice>(created.instance, table);
}

BackendInfo InfoOf(const Created& created) {
  return {.name = PluginText(created.backend.name, kMaxNameBytes),
          .description = absl::StrCat(PluginText(created.backend.description, kMaxDescriptionBytes),
                                      " (plugin ", created.name_and_version, ")"),
          .auto_priority = created.backend.auto_priority,
          .capabilities = created.capabilities};
}

// A refusal of the registry, as a loading error.
absl::Status RegistryError(const Loading& loading, const std::string& name, const absl::Status& status) {
  if (absl::IsAlreadyExists(status)) return loading.NameTaken("backend", name);
  return loading.InvalidTable("backend.name", "[a-z][a-z0-9_]* other than \"auto\"",
                              absl::StrCat("\"", name, "\""));
}

}  // namespace

absl::Status LoadPlugin(const std::string& path, Device& host_device, const tessera_host& host,
                        BackendRegistry& registry) {
  const Loading loading{path};
  TESSERA_ASSIGN_OR_RETURN(const EntryPoints entry, OpenLibrary(loading));
  TESSERA_ASSIGN_OR_RETURN(const Created created, CreateInstance(loading, entry, host));
  TESSERA_RETURN_IF_ERROR(CheckBackend(loading, created));

  std::unique_ptr<PluginDevice> device;
  if (created.device != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(device, MakeDevice(loading, created, host_device, registry));
  }
  auto backend = std::make_unique<PluginBackend>(created.instance, created.backend, InfoOf(created),
                                                 device != nullptr ? *device : host_device);
  const std::string name = backend->info().name;
  const absl::Status added = registry.Add(std::move(backend));
  if (!added.ok()) return RegistryError(loading, name, added);
  if (device != nullptr) registry.AddDevice(std::move(device));
  return absl::OkStatus();
}

}  // namespace tessera
