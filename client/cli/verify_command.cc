// tessera verify: random problems, sent to the backend under test and to the float64 oracle of the same
// server.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/accuracy.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/options.h"
#include "client/cli/random.h"
#include "client/cli/random_problem.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

constexpr int64_t kMaxLength = 1 << 16;  // keeps one case's score matrix within any oracle's reach
constexpr size_t kMaxFailuresShown = 10;

struct VerifyOptions {
  std::string backend = "auto";
  std::string oracle = "cpu_standard";
  int64_t cases = 90;
  int64_t max_length = 200;
  std::vector<std::string> dtypes;
  std::optional<uint64_t> seed;
  std::optional<int64_t> only_case;
  bool verbose = false;
  ConnectionOptions connection;
};

OptionTable MakeTable(VerifyOptions& options) {
  OptionTable table(
      "verify", "",
      "Sends random problems (dtypes, layouts, ragged lengths, GQA, head dims, causal, windows, softcap,\n"
      "ALiBi, sinks, masks, LSE) to a backend and to the float64 oracle, and holds the difference to the\n"
      "published bounds. Exits with 1 when any case is off, with the command that repeats it.");
  table.Section("Problems");
  table.Value("backend", "NAME", &options.backend, "backend under test; default auto");
  table.Value("cases", "N", &options.cases, "number of problems; default 90");
  table.Value("max-length", "N", &options.max_length, "longest sequence; default 200");
  table.Value("dtypes", "NAME,...", &options.dtypes,
              "of fp32, fp16, bf16 and fp8_e4m3; default what the backend takes");
  table.Value("seed", "N", &options.seed, "repeats the run that printed it; default drawn");
  table.Value("case", "N", &options.only_case, "only this case of the run");
  table.Value("oracle", "NAME", &options.oracle, "backend to compare with; default cpu_standard");
  table.Section("Results");
  table.Switch("verbose", &options.verbose, "one line for each case");
  options.connection.Register(table);
  return table;
}

// Narrows the range to what a named backend declares; `auto` chooses per problem.
absl::StatusOr<ProblemRange> RangeFor(const VerifyOptions& options, const v1::GetServerInfoResponse& info) {
  ProblemRange range;
  range.max_length = options.max_length;
  for (const v1::BackendDescription& backend : info.backends()) {
    if (backend.name() != options.backend) continue;
    if (!backend.usable()) {
      return ServerError(
          absl::UnavailableError(absl::StrCat(backend.name(), ": ", backend.unusable_reason())));
    }
    range.max_head_dim = std::min<int64_t>(range.max_head_dim, backend.max_head_dim());
    range.head_dim_multiple = backend.head_dim_multiple();
    std::erase_if(range.dtypes, [&](DType dtype) {
      return std::find(backend.input_dtypes().begin(), backend.input_dtypes().end(), dtype) ==
             backend.input_dtypes().end();
    });
  }
  if (options.dtypes.empty()) return range;
  range.dtypes.clear();
  for (const std::string& name : options.dtypes) {
    const auto dtype = ParseDType(name);
    if (!dtype || *dtype == v1::DATA_TYPE_BOOL) {
      return UsageError(absl::StrCat("--dtypes: expected fp32, fp16, bf16 or fp8_e4m3, got '", name, "'"));
    }
    range.dtypes.push_back(*dtype);
  }
  return range;
}

struct DTypeTotals {
  int64_t cases = 0;
  int64_t failed = 0;
  Accuracy worst;
};

class Verification {
 public:
  Verification(const VerifyOptions& options, uint64_t seed, const Client& client, Console& console)
      : options_(options), seed_(seed), client_(client), console_(console) {}

  // A server error when the server or the backend is not there or the oracle fails; a case that fails is
  // counted.
  absl::Status RunCase(int64_t index, const ProblemRange& range) {
    const std::shared_ptr<const RandomProblem> problem = MakeRandomProblem(seed_, index, range);
    AttendCall call = problem->call;
    call.owner = problem;
    call.backend = options_.backend;
    const absl::StatusOr<AttendResult> actual = client_.Attend(call);
    if (absl::IsUnavailable(actual.status()) || absl::IsNotFound(actual.status())) {
      return ServerError(actual.status());
    }
    if (absl::IsUnimplemented(actual.status())) {
      ++refusals_[std::string(actual.status().message())];
      if (options_.verbose) Report(index, "refused", *problem, DescribeServerError(actual.status()));
      return absl::OkStatus();
    }
    call.backend = options_.oracle;
    call.output_dtype = v1::DATA_TYPE_FP32;
    call.want_lse = true;
    const absl::StatusOr<AttendResult> reference = client_.Attend(call);
    if (!reference.ok() && actual.ok()) {
      return ServerError(absl::Status(reference.status().code(),
                                      absl::StrCat("the oracle ", options_.oracle, " fails on case ", index,
                                                   ": ", std::string(reference.status().message()))));
    }
    Judge(index, *problem, actual, reference);
    return absl::OkStatus();
  }

  ExitCode Finish() {
    PrintTable();
    int64_t cases = 0, failed = 0, refused = 0;
    for (const auto& [dtype, totals] : totals_) {
      cases += totals.cases;
      failed += totals.failed;
    }
    for (const auto& [reason, count] : refusals_) {
      console_.out << Plural(count, "case") << " refused: " << reason << "\n";
      refused += count;
    }
    PrintCoverage();
    if (failed > 0) {
      console_.out << "FAILED: " << failed << " of " << Plural(cases, "case") << "\n";
      return ExitCode::kFailure;
    }
    if (cases == 0) {
      console_.out << "FAILED: nothing was verified, " << Plural(refused, "case") << " refused\n";
      return ExitCode::kFailure;
    }
    console_.out << "OK: " << Plural(cases, "case") << " within bounds\n";
    return ExitCode::kOk;
  }

 private:
  void Judge(int64_t index, const RandomProblem& problem, const absl::StatusOr<AttendResult>& actual,
             const absl::StatusOr<AttendResult>& reference) {
    const DType output = problem.call.output_dtype != v1::DATA_TYPE_UNSPECIFIED ? problem.call.output_dtype
                         : problem.q.dtype == v1::DATA_TYPE_FP8_E4M3            ? v1::DATA_TYPE_BF16
                                                                                : problem.q.dtype;
    const DType dtype = LessPrecise(problem.q.dtype, output);
    DTypeTotals& totals = totals_[dtype];
    ++totals.cases;
    for (const std::string& feature : problem.features) ++coverage_[feature];

    std::string wrong;
    if (!actual.ok()) {
      wrong = DescribeServerError(actual.status());
    } else if (problem.call.want_lse && !actual->lse) {
      wrong = "the reply lacks the LSE that was asked for";
    } else if (actual->output.dtype != output) {
      wrong =
          absl::StrCat("the output is ", DTypeName(actual->output.dtype), ", asked for ", DTypeName(output));
    } else {
      const Accuracy accuracy = Compare(*actual, *reference);
      totals.worst.Merge(accuracy);
      wrong = Violation(accuracy, BoundsOf(dtype, *NumElements(actual->output.shape)));
      if (wrong.empty() && options_.verbose) {
        Report(index, "ok", problem, absl::StrFormat("relative error %.1e", accuracy.relative));
      }
    }
    if (wrong.empty()) return;
    ++totals.failed;
    if (options_.verbose || ++failures_shown_ <= kMaxFailuresShown) {
      Report(index, "FAILED", problem, wrong);
      console_.out << "    repeat: " << RepeatCommand(index) << "\n";
    }
  }

  void Report(int64_t index, const char* verdict, const RandomProblem& problem, const std::string& what) {
    console_.out << "case " << index << " " << verdict << ": " << what << "\n    " << problem.Describe()
                 << "\n";
  }

  std::string RepeatCommand(int64_t index) const {
    std::string command =
        absl::StrCat("tessera verify --server=", options_.connection.server, " --backend=", options_.backend,
                     " --seed=", seed_, " --case=", index, " --max-length=", options_.max_length);
    if (!options_.dtypes.empty())
      absl::StrAppend(&command, " --dtypes=", absl::StrJoin(options_.dtypes, ","));
    if (options_.oracle != VerifyOptions().oracle) absl::StrAppend(&command, " --oracle=", options_.oracle);
    return command;
  }

  void PrintTable() {
    using Align = TextTable::Align;
    TextTable table({{"precision", Align::kLeft},
                     {"cases"},
                     {"failed"},
                     {"relative error"},
                     {"allowed"},
                     {"worst row"},
                     {"allowed"},
                     {"LSE"},
                     {"allowed"}});
    const auto number = [](double value) { return absl::StrFormat("%.1e", value); };
    for (const auto& [dtype, totals] : totals_) {
      const Bounds bounds = BoundsOf(dtype, kMaxLength);  // the usual ones
      table.AddRow({DTypeName(dtype), absl::StrCat(totals.cases), absl::StrCat(totals.failed),
                    number(totals.worst.relative), number(bounds.relative), number(totals.worst.worst_row),
                    number(bounds.worst_row), number(totals.worst.lse), number(bounds.lse)});
    }
    console_.out << table.Format();
  }

  void PrintCoverage() {
    std::string line = "covered:";
    for (const auto& [feature, count] : coverage_) absl::StrAppend(&line, " ", feature, " ", count, ",");
    if (!coverage_.empty()) line.pop_back();
    console_.out << "\n" << Wrap(line, 0) << "\n\n";
  }

  const VerifyOptions& options_;
  const uint64_t seed_;
  const Client& client_;
  Console& console_;
  std::map<DType, DTypeTotals> totals_;
  std::map<std::string, int64_t> refusals_, coverage_;
  size_t failures_shown_ = 0;
};

}  // namespace

absl::StatusOr<ExitCode> RunVerify(const Arguments& arguments, Console& console) {
  VerifyOptions options;
  OptionTable table = MakeTable(options);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  if (options.cases < 1) return UsageError("--cases: expected at least 1");
  if (options.max_length < 1 || options.max_length > kMaxLength) {
    return UsageError(absl::StrCat("--max-length: expected 1 to ", kMaxLength, ", got ", options.max_length));
  }
  if (options.only_case && (*options.only_case < 0 || !options.seed)) {
    return UsageError("--case needs the --seed of the run it belongs to, and counts from 0");
  }

  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, options.connection.Connect());
  const absl::StatusOr<v1::GetServerInfoResponse> info = client->GetServerInfo();
  if (!info.ok()) return ServerError(info.status());
  TESSERA_TRY_ASSIGN(const ProblemRange range, RangeFor(options, *info));
  if (range.dtypes.empty())
    return UsageError(
        absl::StrCat("--backend: ", options.backend, " takes none of fp32, fp16, bf16, fp8_e4m3"));

  const uint64_t seed = options.seed.value_or(Random::DrawSeed());
  console.out << "backend " << options.backend << " against " << options.oracle << ", seed " << seed
              << "\n\n";
  Verification verification(options, seed, *client, console);
  const int64_t first = options.only_case.value_or(0);
  const int64_t end = options.only_case ? first + 1 : options.cases;
  for (int64_t index = first; index < end; ++index) TESSERA_TRY(verification.RunCase(index, range));
  return verification.Finish();
}

}  // namespace tessera::client
