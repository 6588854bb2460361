#include "server/flags.h"

#include <set>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "backend/core/error.h"
#include "server/log.h"

ABSL_FLAG(
    std::string, listen, "127.0.0.1:50051",
    "addresses to serve on: HOST:PORT (port 0: any free one), [IPV6]:PORT or unix:PATH; separate several by "
    "commas or repeat the flag");
ABSL_FLAG(
    std::string, metrics_listen, "",
    "address that serves metrics to Prometheus, over HTTP at /metrics: HOST:PORT (port 0: any free one); "
    "IPv6 only where the civetweb library has it, which Debian 12's has not; empty: none");
ABSL_FLAG(bool, insecure, false, "allow addresses that other machines can reach, unencrypted");
ABSL_FLAG(std::string, backend, "auto", "backend of requests that name none");
ABSL_FLAG(std::string, backend_plugin, "",
          "backend plugins to load: paths of shared libraries, separated by commas or in repeated flags");
ABSL_FLAG(
    std::string, cuda_device, "auto",
    "auto, none, or the number of a GPU among those that CUDA shows this process. auto: the first GPU; "
    "without "
    "GPU or driver, with one older than compute capability 8.0 or in a build without CUDA, the CPU computes, "
    "and the log warns. A GPU that is there and cannot be opened, or a numbered one that cannot be used, "
    "ends "
    "the start");
ABSL_FLAG(int, threads, 0, "CPU threads that compute; 0: one for every core this process may use");
ABSL_FLAG(
    std::string, cpu_isa, "",
    "instruction set of the CPU kernels: baseline, avx2, avx512, avx512_bf16 or amx_bf16; empty: the best "
    "that this processor has");
ABSL_FLAG(int64_t, max_message_bytes, tessera::Limits{}.max_message_bytes,
          "largest request and largest reply, in bytes; at most 2147483647");
ABSL_FLAG(int64_t, max_batch_tokens, tessera::Limits{}.max_batch_tokens,
          "most q plus kv tokens of one request, and of one shared launch");
ABSL_FLAG(int64_t, max_workspace_bytes, tessera::Limits{}.max_workspace_bytes,
          "most device scratch memory of one launch, in bytes");
ABSL_FLAG(int, max_concurrent_requests, tessera::Limits{}.max_concurrent_requests,
          "requests in flight; more are refused with RESOURCE_EXHAUSTED");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "after SIGTERM or SIGINT, how long requests in flight may take before they are given up");
ABSL_FLAG(double, shadow_verify, 0.0,
          "share of the requests, 0..1, that are computed once more by standard attention, at the lowest "
          "priority and after the reply; the metrics tell the errors found");
ABSL_FLAG(int64_t, shadow_max_bytes, tessera::ShadowOptions{}.max_bytes,
          "most bytes of payloads and replies that are kept for --shadow-verify; what finds no room is not "
          "verified");
ABSL_FLAG(std::string, log_level, "info",
          "trace, debug, info, warning, error or off; debug has one line per request");
ABSL_FLAG(bool, help, false, "print this and exit");
ABSL_FLAG(bool, version, false, "print version and commit and exit");

namespace tessera {
namespace {

// In the order of --help. Not every flag of the process: Abseil has some of its own.
std::vector<absl::CommandLineFlag*> AllFlags() {
  constexpr const char* kNames[] = {"listen",
                                    "metrics_listen",
                                    "insecure",
                                    "backend",
                                    "backend_plugin",
                                    "cuda_device",
                                    "threads",
                                    "cpu_isa",
                                    "max_message_bytes",
                                    "max_batch_tokens",
                                    "max_workspace_bytes",
                                    "max_concurrent_requests",
                                    "drain_timeout",
                                    "shadow_verify",
                                    "shadow_max_bytes",
                                    "log_level",
                                    "help",
                                    "version"};
  std::vector<absl::CommandLineFlag*> flags;
  for (const char* name : kNames) flags.push_back(absl::FindCommandLineFlag(name));
  return flags;
}

std::string Spelled(const absl::CommandLineFlag& flag) {
  return absl::StrCat("--", absl::StrReplaceAll(flag.Name(), {{"_", "-"}}));
}

absl::Status UsageError(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat(message, "; see --help"));
}

std::string ValueForm(const absl::CommandLineFlag& flag) {
  if (flag.IsOfType<bool>()) return "true or false";
  if (flag.IsOfType<absl::Duration>()) return "a duration such as 30s or 2m";
  if (flag.IsOfType<int>() || flag.IsOfType<int64_t>()) return "a whole number";
  if (flag.IsOfType<double>()) return "a number";
  return "a text";
}

absl::StatusOr<absl::CommandLineFlag*> FindFlag(const std::string& spelled) {
  const std::string name = absl::StrReplaceAll(spelled, {{"-", "_"}});
  for (absl::CommandLineFlag* flag : AllFlags()) {
    if (flag->Name() == name) return flag;
  }
  return UsageError(absl::StrCat("unknown flag --", spelled));
}

// Flags that hold a list, whose repeats add up; of any other flag the last one counts.
bool IsList(const absl::CommandLineFlag& flag) {
  return flag.Name() == "listen" || flag.Name() == "backend_plugin";
}

absl::Status SetFlags(int argc, char** argv) {
  std::set<const absl::CommandLineFlag*> given;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (!absl::StartsWith(argument, "--") || argument == "--") {
      return UsageError(absl::StrCat("unexpected argument ", Quoted(argument)));
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    TESSERA_ASSIGN_OR_RETURN(absl::CommandLineFlag* const flag, FindFlag(name));
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (flag->IsOfType<bool>()) {
      value = "true";
    } else if (i + 1 < argc) {
      value = argv[++i];
    } else {
      return UsageError(absl::StrCat(Spelled(*flag), " needs a value"));
    }
    const bool is_repeat = !given.insert(flag).second;
    if (is_repeat && IsList(*flag)) value = absl::StrCat(flag->CurrentValue(), ",", value);
    std::string ignored;  // Abseil's own words name the flag by its other spelling
    if (!flag->ParseFrom(value, &ignored)) {
      return UsageError(
          absl::StrCat(Spelled(*flag), ": bad value ", Quoted(value), ", expected ", ValueForm(*flag)));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> SplitList(const std::string& text) {
  return absl::StrSplit(text, ',', absl::SkipWhitespace());
}

absl::StatusOr<int32_t> ParseCudaDevice(const std::string& text) {
  if (text == "auto") return kAutoCudaDevice;
  if (text == "none") return kNoCudaDevice;
  int32_t ordinal = 0;
  if (absl::SimpleAtoi(text, &ordinal) && ordinal >= 0) return ordinal;
  return UsageError(absl::StrCat("--cuda-device: bad value ", Quoted(text),
                                 ", expected auto, none or the number of a GPU"));
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv) {
  TESSERA_RETURN_IF_ERROR(SetFlags(argc, argv));
  CommandLine line;
  TESSERA_ASSIGN_OR_RETURN(line.cuda_device, ParseCudaDevice(absl::GetFlag(FLAGS_cuda_device)));
  line.server.listen = SplitList(absl::GetFlag(FLAGS_listen));
  line.server.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  line.server.insecure = absl::GetFlag(FLAGS_insecure);
  line.server.default_backend = absl::GetFlag(FLAGS_backend);
  line.server.limits.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  line.server.limits.max_batch_tokens = absl::GetFlag(FLAGS_max_batch_tokens);
  line.server.limits.max_workspace_bytes = absl::GetFlag(FLAGS_max_workspace_bytes);
  line.server.limits.max_concurrent_requests = absl::GetFlag(FLAGS_max_concurrent_requests);
  line.server.shadow.rate = absl::GetFlag(FLAGS_shadow_verify);
  line.server.shadow.max_bytes = absl::GetFlag(FLAGS_shadow_max_bytes);
  // Also brings an infinite duration into a range that the server's own check can name.
  line.server.drain_timeout = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_drain_timeout));
  line.backend_plugins = SplitList(absl::GetFlag(FLAGS_backend_plugin));
  line.threads = absl::GetFlag(FLAGS_threads);
  line.cpu_isa = absl::GetFlag(FLAGS_cpu_isa);
  line.log_level = absl::GetFlag(FLAGS_log_level);
  line.help = absl::GetFlag(FLAGS_help);
  line.version = absl::GetFlag(FLAGS_version);
  return line;
}

std::string Usage() {
  std::string usage =
      "tessera-server: exact attention as a gRPC service.\n\n"
      "Usage: tessera-server [--flag=value ...]\n\n";
  for (const absl::CommandLineFlag* flag : AllFlags()) {
    const bool is_switch = flag->IsOfType<bool>();
    const std::string fallback = flag->DefaultValue();
    absl::StrAppend(&usage, "  ", Spelled(*flag),
                    is_switch || fallback.empty() ? "" : absl::StrCat("=", fallback), "\n      ",
                    flag->Help(), "\n");
  }
  absl::StrAppend(
      &usage,
      "\nPrints \"listening on ADDRESS\" on stdout for each address once it serves, and \"metrics on "
      "ADDRESS\"\n"
      "before them if asked to; logs go to stderr.\n"
      "SIGTERM or SIGINT: health turns NOT_SERVING, requests in flight complete, exit. A second one gives "
      "them up.\n"
      "Exit status: 0 drained, 1 could not start, 2 wrong usage, 3 requests in flight were given up, "
      "4 a device was lost: start the server anew.\n");
  return usage;
}

}  // namespace tessera
