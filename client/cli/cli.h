// The `tessera` command line: exit codes, errors, and the table of sub-commands.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::client {

enum class ExitCode {
  kOk = 0,
  kFailure = 1,  // a check failed, or a file could not be read or written
  kUsage = 2,    // the command line is wrong
  kServer = 3,   // the server refused, failed, or could not be reached
};

// Results go to `out`, everything else to `err`.
struct Console {
  std::ostream& out;
  std::ostream& err;
};

// Errors that carry an exit code other than kFailure; the message names the fix.
absl::Status UsageError(const std::string& message);
absl::Status ServerError(const absl::Status& status);

// One line, whatever the message holds: "INVALID_ARGUMENT: k: ... [HEAD_COUNT_NOT_DIVISIBLE]; retry after 200
// ms".
std::string DescribeServerError(const absl::Status& status);

using Arguments = std::vector<std::string>;

// The sub-commands. Each prints its own results; an error is printed by RunCli.
absl::StatusOr<ExitCode> RunAttend(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunVerify(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunExplain(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunInfo(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunHealth(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunLoad(const Arguments& arguments, Console& console);
absl::StatusOr<ExitCode> RunBenchCompare(const Arguments& arguments, Console& console);

// `arguments`: without the program's name. Returns the process's exit code.
int RunCli(const Arguments& arguments, Console& console);

}  // namespace tessera::client
