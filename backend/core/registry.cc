#include "backend/core/registry.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

constexpr char kAuto[] = "auto";

bool IsBackendName(const std::string& name) {
  return !name.empty() && absl::ascii_islower(name[0]) && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_';
  });
}

}  // namespace

Device& BackendRegistry::AddDevice(std::unique_ptr<Device> device) {
  devices_.push_back(std::move(device));
  return *devices_.back();
}

absl::Status BackendRegistry::Add(std::unique_ptr<Backend> backend) {
  const BackendInfo& info = backend->info();
  if (!IsBackendName(info.name) || info.name == kAuto) {
    return InvalidArgument("BACKEND_NAME_INVALID", "backend name", "[a-z][a-z0-9_]* other than \"auto\"",
                           absl::StrCat("\"", info.name, "\""));
  }
  // The name of an unavailable backend is taken too: whoever asks for it must learn why, not get another one.
  const bool taken = std::any_of(backends_.begin(), backends_.end(),
                                 [&](const auto& other) { return other->info().name == info.name; }) ||
                     std::any_of(unavailable_.begin(), unavailable_.end(),
                                 [&](const UnavailableBackend& other) { return other.name == info.name; });
  if (taken) {
    return MakeError(absl::StatusCode::kAlreadyExists,
                     absl::StrCat("there is a backend named \"", info.name, "\" already"),
                     {.reason = "BACKEND_NAME_TAKEN",
                      .metadata = {{"backend", info.name}, {"expected", "a new name"}, {"actual", info.name}},
                      .retry_after = std::nullopt});
  }
  const auto before = [](const std::unique_ptr<Backend>& a, const std::unique_ptr<Backend>& b) {
    if (a->info().auto_priority != b->info().auto_priority) {
      return a->info().auto_priority > b->info().auto_priority;
    }
    return a->info().name < b->info().name;
  };
  const auto place = std::upper_bound(backends_.begin(), backends_.end(), backend, before);
  backends_.insert(place, std::move(backend));
  return absl::OkStatus();
}

void BackendRegistry::AddUnavailable(UnavailableBackend backend) {
  unavailable_.push_back(std::move(backend));
}

absl::StatusOr<Backend*> BackendRegistry::Find(const std::string& name) const {
  std::vector<std::string> names;
  for (const auto& backend : backends_) {
    if (backend->info().name == name) return backend.get();
    names.push_back(backend->info().name);
  }
  for (const UnavailableBackend& backend : unavailable_) {
    if (backend.name != name) continue;
    ErrorDetail detail =
        GetErrorDetail(backend.reason)
            .value_or(
                ErrorDetail{.reason = "BACKEND_UNAVAILABLE", .metadata = {}, .retry_after = std::nullopt});
    detail.metadata["backend"] = name;
    return MakeError(absl::StatusCode::kUnavailable,
                     absl::StrCat("backend \"", name, "\" is unavailable here: ", backend.reason.message()),
                     std::move(detail));
  }
  const std::string known = names.empty() ? "none" : absl::StrJoin(names, ", ");
  return MakeError(absl::StatusCode::kNotFound,
                   absl::StrCat("there is no backend \"", name, "\"; there are: ", known),
                   {.reason = "BACKEND_NOT_FOUND",
                    .metadata = {{"field", "backend"}, {"expected", known}, {"actual", name}},
                    .retry_after = std::nullopt});
}

absl::StatusOr<Backend*> BackendRegistry::Resolve(const std::string& name,
                                                  const AttentionProblem& problem) const {
  if (!name.empty() && name != kAuto) {
    TESSERA_ASSIGN_OR_RETURN(Backend * backend, Find(name));
    TESSERA_RETURN_IF_ERROR(backend->Supports(problem));
    return backend;
  }
  std::vector<std::string> asked, refusals;
  for (const auto& backend : backends_) {
    if (backend->info().auto_priority < 0) continue;
    const absl::Status status = backend->Supports(problem);
    if (status.ok()) return backend.get();
    asked.push_back(backend->info().name);
    refusals.emplace_back(status.message());
  }
  for (const UnavailableBackend& backend : unavailable_) {
    refusals.push_back(absl::StrCat(backend.name, ": unavailable: ", backend.reason.message()));
  }
  return MakeError(
      absl::StatusCode::kUnimplemented,
      absl::StrCat("no backend supports this problem: ",
                   refusals.empty() ? "none is registered for auto" : absl::StrJoin(refusals, "; ")),
      {.reason = "NO_BACKEND_SUPPORTS",
       .metadata = {{"field", "backend"},
                    {"expected", absl::StrCat("support by one of: ",
                                              asked.empty() ? "none" : absl::StrJoin(asked, ", "))},
                    {"actual", refusals.empty() ? "no backend" : absl::StrJoin(refusals, "; ")}},
       .retry_after = std::nullopt});
}

std::vector<Backend*> BackendRegistry::backends() const {
  std::vector<Backend*> all;
  for (const auto& backend : backends_) all.push_back(backend.get());
  return all;
}

std::vector<Device*> BackendRegistry::devices() const {
  std::vector<Device*> all;
  for (const auto& device : devices_) all.push_back(device.get());
  return all;
}

}  // namespace tessera
