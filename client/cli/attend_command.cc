// tessera attend: tensors from files, one Attend call, results to a file and the ledger to the terminal.
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/ledger_table.h"
#include "client/cli/numbers.h"
#include "client/cli/options.h"
#include "client/cli/proto_json.h"
#include "client/cli/request_options.h"
#include "client/cli/table.h"
#include "client/fp8.h"
#include "client/status_macros.h"
#include "client/tensor_files/tensor_file.h"

namespace tessera::client {
namespace {

struct AttendOptions {
  std::string input, q, k, v;
  std::vector<std::string> masks;
  std::string dtype, out, lse_out;
  std::string stats = "table";
  RequestOptions request;
  ConnectionOptions connection;
};

OptionTable MakeTable(AttendOptions& options) {
  OptionTable table(
      "attend", "(--input=FILE | --q=FILE --k=FILE --v=FILE)",
      "Computes exact attention over the tensors q, k and v, writes the result and shows what it cost.\n"
      "FILE is .npy, .npz or .safetensors; FILE:NAME picks one tensor of the last two.");
  table.Section("Tensors");
  table.Value("input", "FILE", &options.input, ".npz or .safetensors with tensors named q, k and v");
  table.Value("q", "FILE[:NAME]", &options.q, "queries; overrides --input");
  table.Value("k", "FILE[:NAME]", &options.k, "keys");
  table.Value("v", "FILE[:NAME]", &options.v, "values");
  table.Value(
      "mask", "FILE[:NAME],...", &options.masks,
      "dense masks: bool (true attends) or floating (added to the scores); one for all, or packed one for "
      "each sequence");
  table.Choice(
      "dtype", {"fp32", "fp16", "bf16", "fp8_e4m3"}, &options.dtype,
      "send q, k and v as this: floating files are converted (to fp8 with a scale for each head, its "
      "largest magnitude / 448), uint16 and uint8 files hold its bits");
  options.request.Register(table);
  table.Section("Results");
  table.Value(
      "out", "FILE", &options.out,
      "where the output goes; .npz and .safetensors hold it as 'output', with --lse beside it as 'lse'");
  table.Value("lse-out", "FILE", &options.lse_out, "a file of its own for the log-sum-exp; implies --lse");
  table.Choice("stats", {"table", "json", "none"}, &options.stats, "how to show the ledger; default table");
  options.connection.Register(table);
  table.Footer(
      "bf16 in .npy and .npz is the two-byte type that ml_dtypes writes ('<V2'); in Python, read the output "
      "with\n"
      "numpy.load(FILE).view(ml_dtypes.bfloat16).\n\n"
      "Example, a prefill of two sequences with grouped heads:\n"
      "  tessera attend --input=qkv.safetensors --q-lens=512,300 --causal --out=result.safetensors");
  return table;
}

// Reads each file once, however many tensors come from it.
class TensorSource {
 public:
  // `where`: FILE or FILE:NAME. Without NAME: the file's only tensor, or the one called `default_name`.
  absl::StatusOr<Tensor> Load(const std::string& where, const std::string& default_name,
                              std::optional<DType> as) {
    TESSERA_TRY_ASSIGN(StoredTensor stored, Find(where, default_name));
    return Located(where, ToTensor(std::move(stored), as));
  }

  // The same, with scales where floating numbers are sent as fp8.
  absl::StatusOr<ScaledTensor> LoadOperand(const std::string& where, const std::string& default_name,
                                           std::optional<DType> as, v1::Layout layout) {
    TESSERA_TRY_ASSIGN(StoredTensor stored, Find(where, default_name));
    if (as != v1::DATA_TYPE_FP8_E4M3 || !IsFloating(stored.element)) {
      TESSERA_TRY_ASSIGN(Tensor tensor, Located(where, ToTensor(std::move(stored), as)));
      return ScaledTensor{std::move(tensor), {}};
    }
    TESSERA_TRY_ASSIGN(const Tensor tensor, Located(where, ToTensor(std::move(stored), v1::DATA_TYPE_FP32)));
    return Located(where, QuantizeFp8(tensor, layout));
  }

 private:
  absl::StatusOr<StoredTensor> Find(const std::string& where, const std::string& default_name) {
    const auto [path, name] = Split(where);
    auto file = files_.find(path);
    if (file == files_.end()) {
      TESSERA_TRY_ASSIGN(StoredTensors tensors, ReadTensorFile(path));
      file = files_.emplace(path, std::move(tensors)).first;
    }
    const StoredTensors& tensors = file->second;
    auto found = tensors.find(name.empty() ? default_name : name);
    if (found == tensors.end() && name.empty() && tensors.size() == 1) found = tensors.begin();
    if (found == tensors.end()) return NoSuchTensor(path, name.empty() ? default_name : name, tensors);
    return found->second;
  }

  // `result`, with the file's name in its error.
  template <typename T>
  static absl::StatusOr<T> Located(const std::string& where, absl::StatusOr<T> result) {
    if (result.ok()) return result;
    return absl::Status(result.status().code(),
                        absl::StrCat(where, ": ", std::string(result.status().message())));
  }

  static std::pair<std::string, std::string> Split(const std::string& where) {
    for (const char* extension : {".npz:", ".safetensors:"}) {
      const size_t at = where.rfind(extension);
      if (at == std::string::npos) continue;
      const size_t colon = where.find(':', at);
      return {where.substr(0, colon), where.substr(colon + 1)};
    }
    return {where, ""};
  }

  static absl::Status NoSuchTensor(const std::string& path, const std::string& name,
                                   const StoredTensors& tensors) {
    constexpr size_t kMaxListed = 8;
    std::string listed;
    size_t count = 0;
    for (const auto& [known, tensor] : tensors) {
      if (++count > kMaxListed) break;
      absl::StrAppend(&listed, listed.empty() ? "" : ", ", known);
    }
    if (tensors.size() > kMaxListed) absl::StrAppend(&listed, ", ... (", tensors.size(), " in all)");
    return absl::NotFoundError(absl::StrCat(path, ": no tensor '", name, "'; it holds ",
                                            tensors.empty() ? "none" : listed, "; pick one with FILE:NAME"));
  }

  std::map<std::string, StoredTensors> files_;
};

struct Tensors {
  ScaledTensor q, k, v;
  std::vector<Tensor> masks;
};

absl::StatusOr<Tensors> LoadTensors(const AttendOptions& options) {
  const std::optional<DType> as = ParseDType(options.dtype);
  TensorSource source;
  Tensors tensors;
  const v1::Layout layout = LayoutOf(options.request.layout);
  const std::pair<const std::string*, ScaledTensor*> wanted[] = {
      {&options.q, &tensors.q}, {&options.k, &tensors.k}, {&options.v, &tensors.v}};
  const char* const names[] = {"q", "k", "v"};
  for (size_t i = 0; i < std::size(wanted); ++i) {
    const std::string& where = wanted[i].first->empty() ? options.input : *wanted[i].first;
    if (where.empty()) {
      return UsageError(absl::StrCat("--", names[i], " is missing; pass --", names[i],
                                     "=FILE, or --input=FILE with tensors q, k and v"));
    }
    if (wanted[i].first->empty() && absl::EndsWith(where, ".npy")) {
      return UsageError(absl::StrCat("--input=", where,
                                     ": a .npy file holds one tensor and --input needs three; pass --",
                                     names[i], "=FILE"));
    }
    TESSERA_TRY_ASSIGN(*wanted[i].second, source.LoadOperand(where, names[i], as, layout));
  }
  for (const std::string& where : options.masks) {
    TESSERA_TRY_ASSIGN(Tensor mask, source.Load(where, "mask", std::nullopt));
    tensors.masks.push_back(std::move(mask));
  }
  return tensors;
}

// Before anything is sent: a long computation must not fail at its last step for a wrong file name.
absl::Status CheckOutputs(AttendOptions& options) {
  if (!options.lse_out.empty()) options.request.lse = true;
  for (const std::string& path : {options.out, options.lse_out}) {
    if (path.empty()) continue;
    if (const auto format = FormatOf(path); !format.ok())
      return UsageError(std::string(format.status().message()));
  }
  if (options.request.lse && options.lse_out.empty() && absl::EndsWith(options.out, ".npy")) {
    return UsageError(
        "--out=....npy has no room for --lse; name --lse-out=FILE too, or use .npz or .safetensors");
  }
  return absl::OkStatus();
}

absl::Status WriteOutputs(const AttendOptions& options, const AttendResult& result) {
  if (!options.out.empty()) {
    std::map<std::string, TensorView> tensors{{"output", result.output.view()}};
    if (result.lse && options.lse_out.empty()) tensors.emplace("lse", result.lse->view());
    TESSERA_TRY(WriteTensorFile(options.out, tensors));
  }
  if (!options.lse_out.empty() && result.lse) {
    TESSERA_TRY(WriteTensorFile(options.lse_out, {{"lse", result.lse->view()}}));
  }
  return absl::OkStatus();
}

struct NamedOutput {
  const char* name;
  const Tensor* tensor;
  std::string file;
};

std::vector<NamedOutput> Outputs(const AttendOptions& options, const AttendResult& result) {
  std::vector<NamedOutput> outputs{{"output", &result.output, options.out}};
  if (result.lse)
    outputs.push_back({"lse", &*result.lse, options.lse_out.empty() ? options.out : options.lse_out});
  return outputs;
}

std::string FormatOutputs(const std::vector<NamedOutput>& outputs) {
  using Align = TextTable::Align;
  TextTable table({{"result", Align::kLeft},
                   {"dtype", Align::kLeft},
                   {"shape", Align::kLeft},
                   {"size"},
                   {"mean"},
                   {"std"},
                   {"min"},
                   {"max"},
                   {"not finite"}});
  std::string written;
  for (const NamedOutput& output : outputs) {
    const TensorSummary summary = Summarize(*output.tensor);
    table.AddRow({output.name, DTypeName(output.tensor->dtype), ShapeString(output.tensor->shape),
                  HumanBytes(static_cast<int64_t>(output.tensor->bytes.size())),
                  absl::StrFormat("%.4f", summary.mean), absl::StrFormat("%.4f", summary.deviation),
                  absl::StrFormat("%.4f", summary.min), absl::StrFormat("%.4f", summary.max),
                  absl::StrCat(summary.not_finite)});
    if (!output.file.empty()) absl::StrAppend(&written, output.name, " written to ", output.file, "\n");
  }
  return table.Format() + written + "\n";
}

Json OutputsJson(const std::vector<NamedOutput>& outputs) {
  Json list = Json::array();
  for (const NamedOutput& output : outputs) {
    const TensorSummary summary = Summarize(*output.tensor);
    list.push_back({{"name", output.name},
                    {"dtype", DTypeName(output.tensor->dtype)},
                    {"shape", output.tensor->shape},
                    {"file", output.file},
                    {"mean", summary.mean},
                    {"std", summary.deviation},
                    {"min", summary.min},
                    {"max", summary.max},
                    {"not_finite", summary.not_finite}});
  }
  return list;
}

}  // namespace

absl::StatusOr<ExitCode> RunAttend(const Arguments& arguments, Console& console) {
  AttendOptions options;
  OptionTable table = MakeTable(options);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY(CheckOutputs(options));
  TESSERA_TRY_ASSIGN(Tensors loaded, LoadTensors(options));
  const auto owner = std::make_shared<const Tensors>(std::move(loaded));
  const Tensors& tensors = *owner;

  AttendCall call;
  call.owner = owner;
  call.q = tensors.q.tensor.view();
  call.k = tensors.k.tensor.view();
  call.v = tensors.v.tensor.view();
  call.q_scales = tensors.q.scales;
  call.k_scales = tensors.k.scales;
  call.v_scales = tensors.v.scales;
  for (const Tensor& mask : tensors.masks) call.masks.push_back(mask.view());
  TESSERA_TRY(options.request.Apply(call));

  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, options.connection.Connect());
  const absl::StatusOr<AttendResult> result = client->Attend(call);
  if (!result.ok()) return ServerError(result.status());
  TESSERA_TRY(WriteOutputs(options, *result));

  const std::vector<NamedOutput> outputs = Outputs(options, *result);
  if (options.stats == "table") console.out << FormatOutputs(outputs) << FormatLedger(result->ledger);
  if (options.stats == "json") {
    console.out << DumpJson(
        {{"id", result->id}, {"outputs", OutputsJson(outputs)}, {"ledger", ToJson(result->ledger)}});
  }
  return ExitCode::kOk;
}

}  // namespace tessera::client
