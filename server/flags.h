// The command line of tessera-server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/options.h"

namespace tessera {

// Not ordinals, but what --cuda-device=auto and --cuda-device=none stand for.
inline constexpr int32_t kAutoCudaDevice = -1;
inline constexpr int32_t kNoCudaDevice = -2;

struct CommandLine {
  ServerOptions server;
  std::vector<std::string> backend_plugins;  // paths
  int32_t cuda_device = kAutoCudaDevice;     // or an ordinal, or kNoCudaDevice
  int threads = 0;                           // of the CPU device; 0: every usable core
  std::string cpu_isa;                       // empty: the best usable one
  std::string log_level;
  bool help = false;
  bool version = false;
};

// Parses "--name=value", "--name value" and, for switches, "--name". Flags are written with '-'
// ("--max-message-bytes"); Abseil's flag names cannot hold one, so '-' and '_' are the same here.
// INVALID_ARGUMENT, on one line and with what to do, for anything else.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv);

// What --help prints.
std::string Usage();

}  // namespace tessera
