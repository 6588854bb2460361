// Protobuf messages as JSON with the field names of the .proto files and integers as numbers (protobuf's own
// printer turns 64-bit integers into strings).
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>

namespace tessera::client {

using Json = nlohmann::ordered_json;

// Every field, those at their default included. Bytes fields are left out.
Json ToJson(const google::protobuf::Message& message);

// Two-space indented, with a newline at the end; text that is not UTF-8 is replaced.
std::string DumpJson(const Json& json);

}  // namespace tessera::client
