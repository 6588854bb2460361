// tessera bench compare: the classic table, or its raw rounds as JSON.
#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/cli.h"
#include "client/cli/compare_bench.h"
#include "client/cli/connection.h"
#include "client/cli/options.h"
#include "client/cli/proto_json.h"
#include "client/cli/random.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

struct BenchOptions {
  std::vector<int64_t> n{1024, 2048, 4096, 8192, 16384};
  std::string dtype = "fp32";
  std::string standard;  // empty: the best the server has
  std::optional<uint64_t> seed;
  bool json = false;
  CompareSettings settings{"", "auto", "cpu_standard"};
  ConnectionOptions connection;
};

OptionTable MakeTable(BenchOptions& options) {
  CompareSettings& settings = options.settings;
  OptionTable table(
      "bench compare", "",
      "Times fused attention against standard attention, which materialises N x N, for growing N on one\n"
      "server. Times are the server's compute times (no network, no copies): medians over rounds taken in\n"
      "turn after a warm-up. Results are first held to the float64 oracle on a random sample of rows;\n"
      "exits with 1 when one is off.");
  table.Section("Problem");
  table.Value("n", "N,...", &options.n, "sequence lengths; default 1024,2048,4096,8192,16384");
  table.Value("heads", "N", &settings.heads, "query heads and key heads; default 4");
  table.Value("head-dim", "N", &settings.head_dim, "default 128");
  table.Choice("dtype", {"fp32", "fp16", "bf16", "fp8_e4m3"}, &options.dtype,
               "default fp32; fp8 has a scale for each head");
  table.Switch("causal", &settings.causal, "causal attention");
  table.Section("Comparison");
  table.Value("fused", "NAME", &settings.fused, "backend under test; default auto");
  table.Value(
      "standard", "NAME", &options.standard,
      "the baseline; default cuda_standard where the fused backend runs on its GPU, else cpu_unfused");
  table.Value("oracle", "NAME", &settings.oracle, "judges the results; default cpu_standard");
  table.Value("rounds", "N", &settings.rounds, "default 7");
  table.Value(
      "max-standard-seconds", "X", &settings.max_standard_seconds,
      "time the baseline may take at one N: rounds that do not fit are left out, and said so; default 60");
  table.Value("seed", "N", &options.seed, "of the random inputs; default drawn, always printed");
  table.Section("Results");
  table.Switch("json", &options.json, "print the raw rounds, device and commit as JSON");
  options.connection.Register(table);
  return table;
}

absl::Status CheckSettings(BenchOptions& options) {
  CompareSettings& settings = options.settings;
  const auto within = [](const char* name, int64_t value, int64_t high) {
    if (value >= 1 && value <= high) return absl::OkStatus();
    return UsageError(absl::StrCat("--", name, ": expected 1 to ", high, ", got ", value));
  };
  TESSERA_TRY(within("heads", settings.heads, 1024));
  TESSERA_TRY(within("head-dim", settings.head_dim, 1024));
  TESSERA_TRY(within("rounds", settings.rounds, 1000));
  if (options.n.empty()) return UsageError("--n: expected at least one length");
  for (int64_t n : options.n) {
    TESSERA_TRY(within("n", n, 1 << 22));
    if (n * settings.heads * settings.head_dim > kMaxMessageBytes / 16) {
      return UsageError(absl::StrCat("--n: ", n, " tokens with ", settings.heads, " heads of ",
                                     settings.head_dim, " do not fit one message; use fewer heads"));
    }
  }
  if (!(settings.max_standard_seconds > 0)) return UsageError("--max-standard-seconds: expected more than 0");
  settings.dtype = *ParseDType(options.dtype);
  return absl::OkStatus();
}

std::string DeviceNames(const v1::GetServerInfoResponse& info) {
  std::string names;
  for (const v1::DeviceDescription& device : info.devices()) {
    absl::StrAppend(&names, names.empty() ? "" : "; ", device.id(), ": ", device.name());
  }
  return names;
}

std::string Header(const CompareSettings& settings, uint64_t seed, const v1::GetServerInfoResponse& info) {
  return absl::StrCat(DTypeName(settings.dtype), ", ", Plural(settings.heads, "head"),
                      ", d = ", settings.head_dim, settings.causal ? ", causal" : ", not causal", ", ",
                      settings.fused, " against ", settings.standard, ", ", Plural(settings.rounds, "round"),
                      " in turn, seed ", seed, "\n", DeviceNames(info), "; server ", info.version(), " (",
                      info.commit(), ")\n\n");
}

std::string TimeCell(const Measurement& measurement) {
  if (!measurement.measured()) return measurement.skipped.substr(0, measurement.skipped.find(':'));
  return HumanMilliseconds(Median(measurement.compute_us));
}

std::string SpreadCell(const Measurement& measurement) {
  if (measurement.compute_us.size() < 2) return "";
  return absl::StrFormat("+-%.0f%%", 100 * Spread(measurement.compute_us));
}

std::string WorkspaceCell(const Measurement& m) {
  return m.backend.empty() ? "-" : HumanBytes(m.workspace_peak);
}

std::string ErrorCell(const Measurement& m) {
  return m.backend.empty() ? "-" : absl::StrFormat("%.1e", m.accuracy.relative);
}

std::string FormatRows(const std::vector<CompareRow>& rows) {
  TextTable table({{"N"},
                   {"std ms"},
                   {""},
                   {"fused ms"},
                   {""},
                   {"speed-up"},
                   {"std mem"},
                   {"fused mem"},
                   {"std error"},
                   {"fused error"}});
  std::string notes;
  for (const CompareRow& row : rows) {
    const std::optional<double> speed_up = row.SpeedUp();
    table.AddRow({absl::StrCat(row.n), TimeCell(row.standard), SpreadCell(row.standard), TimeCell(row.fused),
                  SpreadCell(row.fused), speed_up ? HumanRatio(*speed_up) : "-", WorkspaceCell(row.standard),
                  WorkspaceCell(row.fused), ErrorCell(row.standard), ErrorCell(row.fused)});
    for (const auto& [name, m] : {std::pair{"standard", &row.standard}, std::pair{"fused", &row.fused}}) {
      if (!m->skipped.empty()) absl::StrAppend(&notes, "N = ", row.n, ", ", name, " ", m->skipped, "\n");
    }
    if (!row.violation.empty()) absl::StrAppend(&notes, "N = ", row.n, " FAILED: ", row.violation, "\n");
  }
  std::string kernels =
      "std: standard; mem: workspace_peak of the ledger; error: relative, to the oracle on sampled rows\n";
  for (const auto& [name, m] :
       {std::pair{"standard", &rows[0].standard}, std::pair{"fused", &rows[0].fused}}) {
    if (!m->backend.empty()) absl::StrAppend(&kernels, name, ": ", m->backend, ", kernel ", m->kernel, "\n");
  }
  return absl::StrCat(table.Format(), "\n", kernels, notes);
}

Json ToJson(const Measurement& m) {
  Json json{{"backend", m.backend},
            {"kernel", m.kernel},
            {"compute_us", m.compute_us},
            {"workspace_peak", m.workspace_peak},
            {"flops", m.flops},
            {"relative_error", m.accuracy.relative},
            {"worst_row_error", m.accuracy.worst_row}};
  if (m.measured()) {
    const double median = Median(m.compute_us);
    json["median_us"] = median;
    json["spread"] = Spread(m.compute_us);
    json["tflop_per_s"] = median > 0 ? static_cast<double>(m.flops) / median / 1e6 : 0;
  }
  if (!m.skipped.empty()) json["skipped"] = m.skipped;
  return json;
}

Json ToJson(const std::vector<CompareRow>& rows, const CompareSettings& settings, uint64_t seed,
            const v1::GetServerInfoResponse& info) {
  Json list = Json::array();
  for (const CompareRow& row : rows) {
    Json json{{"n", row.n}, {"standard", ToJson(row.standard)}, {"fused", ToJson(row.fused)}};
    if (const auto speed_up = row.SpeedUp()) json["speed_up"] = *speed_up;
    if (!row.violation.empty()) json["violation"] = row.violation;
    list.push_back(std::move(json));
  }
  return {{"version", info.version()},          {"commit", info.commit()},
          {"device", DeviceNames(info)},        {"seed", seed},
          {"dtype", DTypeName(settings.dtype)}, {"heads", settings.heads},
          {"head_dim", settings.head_dim},      {"causal", settings.causal},
          {"rounds", settings.rounds},          {"rows", std::move(list)}};
}

}  // namespace

absl::StatusOr<ExitCode> RunBenchCompare(const Arguments& arguments, Console& console) {
  BenchOptions options;
  OptionTable table = MakeTable(options);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY(CheckSettings(options));
  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, options.connection.Connect());
  const absl::StatusOr<v1::GetServerInfoResponse> info = client->GetServerInfo();
  if (!info.ok()) return ServerError(info.status());
  CompareSettings& settings = options.settings;
  settings.standard = options.standard.empty() ? DefaultStandard(settings.fused, *info) : options.standard;

  const uint64_t seed = options.seed.value_or(Random::DrawSeed());
  if (!options.json) console.out << Header(settings, seed, *info) << std::flush;
  CompareBench bench(settings, seed, *client);
  std::vector<CompareRow> rows;
  for (int64_t n : options.n) {
    console.err << "N = " << n << " ..." << std::endl;
    absl::StatusOr<CompareRow> row = bench.Measure(n);
    if (!row.ok()) return ServerError(row.status());
    rows.push_back(*std::move(row));
  }
  console.out << (options.json ? DumpJson(ToJson(rows, settings, seed, *info)) : FormatRows(rows));

  const bool wrong =
      std::any_of(rows.begin(), rows.end(), [](const CompareRow& row) { return !row.violation.empty(); });
  const bool measured =
      std::any_of(rows.begin(), rows.end(), [](const CompareRow& row) { return row.fused.measured(); });
  return wrong || !measured ? ExitCode::kFailure : ExitCode::kOk;
}

}  // namespace tessera::client
