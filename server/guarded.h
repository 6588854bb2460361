// The border between code that may throw and threads that must not: gRPC drops an exception of a reaction,
// and the call never ends; a scheduler thread takes the process along.
#pragma once

#include <chrono>
#include <exception>
#include <new>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "backend/core/error.h"

namespace tessera {

// step(), which returns a Status or a StatusOr; what it throws becomes RESOURCE_EXHAUSTED, reason
// HOST_MEMORY, for std::bad_alloc, and INTERNAL, reason EXCEPTION and naming `who`, for any other
// std::exception.
template <typename Step>
auto Guarded(absl::string_view who, Step&& step) -> decltype(step()) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     "the server is out of host memory; try again later",
                     {.reason = "HOST_MEMORY",
                      .metadata = {{"expected", "free host memory"}, {"actual", "none left"}},
                      .retry_after = std::chrono::milliseconds(1000)});
  } catch (const std::exception& error) {
    return MakeError(
        absl::StatusCode::kInternal, absl::StrCat(who, " threw: ", error.what()),
        {.reason = "EXCEPTION",
         .metadata = {{"thrower", std::string(who)}, {"expected", "no exception"}, {"actual", error.what()}},
         .retry_after = std::nullopt});
  }
}

}  // namespace tessera
