// Bad input as data: what is sent or started, and the error it must get.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <ostream>
#include <string>
#include <variant>
#include <vector>

#include "grpcpp/support/status.h"
#include "tessera/v1/attention.pb.h"

namespace tessera::testing {

// Limits of the server under test.
inline constexpr int64_t kMaxMessageBytes = 1 << 20;
inline constexpr int64_t kMaxBatchTokens = 4096;
inline constexpr int64_t kMaxWorkspaceBytes = 16 << 20;

// One sequence of 4 tokens, 4 query and 2 key heads, dim 8: valid in every respect.
v1::AttendRequest GoodRequest();

// q.npy, k.npy, v.npy of shape (4, 2, 8) in fp32.
void WriteGoodArrays(const std::filesystem::path& directory);

struct Expected {
  grpc::StatusCode code;
  std::string reason;    // of ErrorInfo
  std::string expected;  // substring of metadata["expected"]
  std::string actual;    // substring of metadata["actual"]
};

// A request sent over the wire: a change to the good one, or bytes of any kind.
struct Attend {
  std::function<void(v1::AttendRequest&)> change;
  Expected error;
};
struct RawBytes {
  std::function<std::string(const std::string& good)> make;
  Expected error;
};
// A run of the CLI; "{server}" and "{dir}" in arguments stand for the address and a scratch directory.
struct Cli {
  std::vector<std::string> arguments;
  int exit_code;
  std::vector<std::string> message_parts;
  std::function<void(const std::filesystem::path& directory)> prepare;
};
// A server that must refuse to start: exit 1, or 2 for flags that make no sense.
struct Start {
  std::vector<std::string> flags;
  int exit_code;
  std::vector<std::string> message_parts;
};

struct BadInput {
  std::string name;
  std::variant<Attend, RawBytes, Cli, Start> act;
};

inline void PrintTo(const BadInput& input, std::ostream* out) { *out << input.name; }

const std::vector<BadInput>& BadInputs();

}  // namespace tessera::testing
