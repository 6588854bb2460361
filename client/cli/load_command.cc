// tessera load: load tests of one or several servers.
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/load_options.h"
#include "client/cli/proto_json.h"
#include "client/load/progress.h"
#include "client/load/report.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<load::Target>>> ConnectAll(const LoadOptions& options) {
  std::vector<std::unique_ptr<load::Target>> targets;
  for (const std::string& address : options.servers) {
    ConnectionOptions connection;
    connection.server = address;
    TESSERA_TRY(connection.Connect().status());  // says what to do about an address that is wrong or silent
    auto target = load::Target::Connect(address, static_cast<int>(options.channels));
    if (!target.ok()) return ServerError(target.status());
    targets.push_back(*std::move(target));
  }
  return targets;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  if (file << text && file.flush()) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat("cannot write '", path, "'"));
}

absl::Status WriteResults(const LoadOptions& options, const load::LoadReport& report, Console& console) {
  if (options.json == "-") {
    console.out << DumpJson(load::ToJson(report));
  } else {
    console.out << load::FormatText(report);
    if (!options.json.empty()) TESSERA_TRY(WriteFile(options.json, DumpJson(load::ToJson(report))));
  }
  if (!options.csv.empty()) TESSERA_TRY(WriteFile(options.csv, load::FormatCsv(report)));
  if (!options.html.empty()) TESSERA_TRY(WriteFile(options.html, load::FormatHtml(report)));
  return absl::OkStatus();
}

ExitCode ExitCodeOf(const load::LoadReport& report) {
  if (report.verification && report.verification->wrong > 0) return ExitCode::kFailure;
  if (report.totals && !report.totals->agree()) return ExitCode::kFailure;
  int64_t ok = 0;
  for (const load::PointResult& point : report.points) ok += point.phase.tally.ok;
  return ok > 0 ? ExitCode::kOk : ExitCode::kFailure;
}

}  // namespace

absl::StatusOr<ExitCode> RunLoad(const Arguments& arguments, Console& console) {
  LoadOptions options;
  OptionTable table = MakeLoadTable(options);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY_ASSIGN(const LoadPlan plan, MakeLoadPlan(options));
  const auto workload =
      load::MakeAttendWorkload(plan.shape, plan.trace ? &*plan.trace : nullptr, plan.settings.seed);
  if (!workload.ok()) return UsageError(std::string(workload.status().message()));
  TESSERA_TRY_ASSIGN(const auto targets, ConnectAll(options));
  // Only a stream that is the process's stderr can be a terminal.
  load::Progress progress(console.err, &console.err == &std::cerr ? load::TerminalWidth(STDERR_FILENO) : 0);
  const auto report = load::RunLoadTest(targets, **workload, plan.settings, progress);
  if (!report.ok()) return ServerError(report.status());
  TESSERA_TRY(WriteResults(options, *report, console));
  return ExitCodeOf(*report);
}

}  // namespace tessera::client
