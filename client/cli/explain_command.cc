// tessera explain: what attend would do with tensors of these shapes.
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/ledger_table.h"
#include "client/cli/options.h"
#include "client/cli/proto_json.h"
#include "client/cli/request_options.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

struct ExplainOptions {
  std::string q, k, v;
  std::vector<std::string> masks;
  std::string dtype = "fp32";
  bool json = false;
  RequestOptions request;
  ConnectionOptions connection;
};

OptionTable MakeTable(ExplainOptions& options) {
  OptionTable table(
      "explain", "--q=SHAPE",
      "Shows which backend, kernel and tile attend would choose for tensors of these shapes, and the\n"
      "memory and traffic that would cost. Nothing runs. SHAPE is written 1024x32x128.");
  table.Section("Tensors");
  table.Value("q", "SHAPE", &options.q, "queries, in the --layout");
  table.Value("k", "SHAPE", &options.k, "keys; default the shape of q");
  table.Value("v", "SHAPE", &options.v, "values; default the shape of k");
  table.Value("mask", "[DTYPE:]SHAPE,...", &options.masks,
              "dense masks; DTYPE is bool (default), fp32, fp16 or bf16");
  table.Choice("dtype", {"fp32", "fp16", "bf16", "fp8_e4m3"}, &options.dtype,
               "element type of q, k and v; default fp32");
  options.request.Register(table);
  table.Section("Results");
  table.Switch("json", &options.json, "print the whole reply as JSON");
  options.connection.Register(table);
  table.Footer(
      "Example, one decode step of 8 sequences with 4096 keys each:\n"
      "  tessera explain --layout=bshd --q=8x1x32x128 --k=8x4096x8x128 --dtype=bf16 --causal");
  return table;
}

absl::StatusOr<TensorView> ParseShape(const std::string& option, const std::string& text, DType dtype) {
  TensorView view{dtype, {}, {}};
  const std::vector<std::string> extents = absl::StrSplit(text, 'x');
  for (const std::string& extent : extents) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(extent, &value) || value < 0) {
      return UsageError(
          absl::StrCat("--", option, ": expected a shape such as 1024x32x128, got '", text, "'"));
    }
    view.shape.push_back(value);
  }
  return view;
}

absl::StatusOr<TensorView> ParseMask(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return ParseShape("mask", text, v1::DATA_TYPE_BOOL);
  const auto dtype = ParseDType(text.substr(0, colon));
  if (!dtype)
    return UsageError(absl::StrCat("--mask: expected bool, fp32, fp16 or bf16 before ':', got '", text, "'"));
  return ParseShape("mask", text.substr(colon + 1), *dtype);
}

absl::StatusOr<AttendCall> MakeCall(const ExplainOptions& options) {
  if (options.q.empty()) return UsageError("--q is missing; pass its shape, such as --q=1024x32x128");
  const std::string& k = options.k.empty() ? options.q : options.k;
  const std::string& v = options.v.empty() ? k : options.v;
  const DType dtype = *ParseDType(options.dtype);
  AttendCall call;
  TESSERA_TRY_ASSIGN(call.q, ParseShape("q", options.q, dtype));
  TESSERA_TRY_ASSIGN(call.k, ParseShape("k", k, dtype));
  TESSERA_TRY_ASSIGN(call.v, ParseShape("v", v, dtype));
  for (const std::string& text : options.masks) {
    TESSERA_TRY_ASSIGN(TensorView mask, ParseMask(text));
    call.masks.push_back(std::move(mask));
  }
  TESSERA_TRY(options.request.Apply(call));
  return call;
}

std::string Format(const v1::ExplainResponse& reply) {
  const v1::TrafficLedger& traffic = reply.traffic();
  std::string text =
      absl::StrCat(FormatChoice(reply.choice(), ""), "features ",
                   reply.features().empty() ? "none" : absl::StrJoin(reply.features(), ", "), "\n\n");
  using Align = TextTable::Align;
  TextTable table({{"memory", Align::kLeft},
                   {""},
                   {"  traffic, modelled", Align::kLeft},
                   {""},
                   {"  standard attention would", Align::kLeft},
                   {""}});
  table.AddRow({"input", HumanBytes(reply.input_bytes()), "  read", HumanBytes(traffic.hbm_read()), "  hold",
                HumanBytes(traffic.standard_workspace())});
  table.AddRow({"output", HumanBytes(reply.output_bytes()), "  written", HumanBytes(traffic.hbm_write()),
                "  move", HumanBytes(traffic.standard_hbm_bytes())});
  table.AddRow({"workspace", HumanBytes(reply.workspace_bytes()), "  work",
                absl::StrCat(HumanCount(static_cast<double>(reply.flops())), "FLOP"), "  traffic ratio",
                HumanRatio(traffic.hbm_ratio())});
  text += table.Format();
  if (reply.refusals_size() > 0) {
    TextTable refusals({{"backend", Align::kLeft}, {"refuses because", Align::kLeft}});
    for (const auto& refusal : reply.refusals()) refusals.AddRow({refusal.backend(), refusal.reason()});
    absl::StrAppend(&text, "\n", refusals.Format());
  }
  return text;
}

}  // namespace

absl::StatusOr<ExitCode> RunExplain(const Arguments& arguments, Console& console) {
  ExplainOptions options;
  OptionTable table = MakeTable(options);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY_ASSIGN(const AttendCall call, MakeCall(options));
  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, options.connection.Connect());
  const absl::StatusOr<v1::ExplainResponse> reply = client->Explain(call);
  if (!reply.ok()) return ServerError(reply.status());
  console.out << (options.json ? DumpJson(ToJson(*reply)) : Format(*reply));
  return ExitCode::kOk;
}

}  // namespace tessera::client
