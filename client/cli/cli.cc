#include "client/cli/cli.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/options.h"
#include "client/error.h"

namespace tessera::client {
namespace {

constexpr char kExitCodePayload[] = "tessera.cli/exit_code";

struct Command {
  std::vector<std::string> words;
  const char* summary;
  absl::StatusOr<ExitCode> (*run)(const Arguments&, Console&);

  std::string name() const { return words.size() == 2 ? absl::StrCat(words[0], " ", words[1]) : words[0]; }
};

const std::vector<Command>& Commands() {
  static const std::vector<Command> commands = {
      {{"attend"}, "compute attention over tensors from files", RunAttend},
      {{"explain"}, "show what attend would do and cost, without tensors", RunExplain},
      {{"verify"}, "check a backend against the float64 oracle on random problems", RunVerify},
      {{"bench", "compare"},
       "time the fused backend against the standard one, N = 1024 ... 16384",
       RunBenchCompare},
      {{"load"}, "load servers in closed and open loops: rates, latencies, bottleneck", RunLoad},
      {{"info"}, "show the server's version, backends, devices and limits", RunInfo},
      {{"health"}, "ask whether the server is serving", RunHealth},
  };
  return commands;
}

absl::Status WithExitCode(absl::Status status, ExitCode code) {
  status.SetPayload(kExitCodePayload, absl::Cord(std::to_string(static_cast<int>(code))));
  return status;
}

ExitCode ExitCodeOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kExitCodePayload);
  if (!payload) return ExitCode::kFailure;
  return *payload == "2" ? ExitCode::kUsage : ExitCode::kServer;
}

std::string OneLine(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  std::replace(text.begin(), text.end(), '\r', ' ');
  return text;
}

std::string TopLevelHelp() {
  std::string help =
      "Exact attention as a service: the command line client.\n\nUsage: tessera COMMAND [OPTION...]\n\n";
  for (const Command& command : Commands())
    absl::StrAppendFormat(&help, "  %-14s %s\n", command.name(), command.summary);
  absl::StrAppend(
      &help,
      "\n'tessera COMMAND --help' shows the options of a command, --version the version of this client.\n"
      "Every command that talks to a server takes --server=ADDRESS (HOST:PORT or unix:PATH); the\n"
      "default is $TESSERA_SERVER, else 127.0.0.1:50051.\n\n"
      "Exit codes: 0 success; 1 a check failed or a file is bad; 2 wrong usage; 3 the server refused,\n"
      "failed or could not be reached.\n");
  return help;
}

const Command* FindCommand(const Arguments& arguments) {
  for (const Command& command : Commands()) {
    if (arguments.size() >= command.words.size() &&
        std::equal(command.words.begin(), command.words.end(), arguments.begin())) {
      return &command;
    }
  }
  return nullptr;
}

std::string UnknownCommand(const Arguments& arguments) {
  std::vector<std::string> names;
  for (const Command& command : Commands()) names.push_back(command.name());
  const bool is_group = arguments[0] == "bench";
  const std::string typed =
      is_group && arguments.size() > 1 ? absl::StrCat("bench ", arguments[1]) : arguments[0];
  return absl::StrCat("tessera: unknown command '", typed, "'; ", DidYouMean(typed, names, ""),
                      "'tessera --help' lists all");
}

}  // namespace

absl::Status UsageError(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

absl::Status ServerError(const absl::Status& status) {
  return WithExitCode(absl::Status(status.code(), DescribeServerError(status)), ExitCode::kServer);
}

std::string DescribeServerError(const absl::Status& status) {
  std::string text =
      absl::StrCat(absl::StatusCodeToString(status.code()), ": ", std::string(status.message()));
  if (const auto info = GetErrorInfo(status)) absl::StrAppend(&text, " [", info->reason, "]");
  if (const auto delay = GetRetryDelay(status))
    absl::StrAppend(&text, "; retry after ", delay->count(), " ms");
  return OneLine(text);
}

int RunCli(const Arguments& arguments, Console& console) {
  if (!arguments.empty() && arguments[0] == "--version") {
    console.out << "tessera " << TESSERA_VERSION << "\n";
    return static_cast<int>(ExitCode::kOk);
  }
  const bool wants_help = !arguments.empty() && (arguments[0] == "help" || arguments[0] == "--help");
  if (arguments.empty() || (wants_help && arguments.size() == 1)) {
    (wants_help ? console.out : console.err) << TopLevelHelp();
    return static_cast<int>(wants_help ? ExitCode::kOk : ExitCode::kUsage);
  }
  // `tessera help attend` is `tessera attend --help`; so is `tessera bench --help` for the only bench there
  // is.
  Arguments rest(arguments.begin() + (wants_help ? 1 : 0), arguments.end());
  if (wants_help) rest.push_back("--help");
  if (rest[0] == "bench" && (rest.size() == 1 || rest[1] == "--help"))
    rest.insert(rest.begin() + 1, "compare");
  const Command* command = FindCommand(rest);
  if (command == nullptr) {
    console.err << OneLine(UnknownCommand(rest)) << "\n";
    return static_cast<int>(ExitCode::kUsage);
  }
  rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(command->words.size()));
  const absl::StatusOr<ExitCode> code = command->run(rest, console);
  if (code.ok()) return static_cast<int>(*code);
  console.err << "tessera " << command->name() << ": " << OneLine(std::string(code.status().message()))
              << "\n";
  return static_cast<int>(ExitCodeOf(code.status()));
}

}  // namespace tessera::client
