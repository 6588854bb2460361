#include "client/cli/request_options.h"

#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "client/cli/cli.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

// The head count of q in `layout`; a usage error when q has no such dimension.
absl::StatusOr<int64_t> HeadsOf(const AttendCall& call, const std::string& option) {
  const size_t axis = call.layout == v1::LAYOUT_BSHD ? 2 : 1;
  // A million heads is beyond any model: keeps a wrong --layout from asking for gigabytes of slopes.
  if (call.q.shape.size() <= axis || call.q.shape[axis] < 1 || call.q.shape[axis] > 1'000'000) {
    return UsageError(absl::StrCat(option, " needs the head count, which q ", ShapeString(call.q.shape),
                                   " does not have in --layout=", LayoutName(call.layout)));
  }
  return call.q.shape[axis];
}

absl::Status SetScales(const char* option, const std::vector<float>& given, std::vector<float>& scales) {
  if (given.empty()) return absl::OkStatus();
  if (!scales.empty()) {
    return UsageError(absl::StrCat(option,
                                   " is for files of fp8 bits; tensors that --dtype=fp8_e4m3 converts ",
                                   "get scales of their own"));
  }
  scales = given;
  return absl::OkStatus();
}

}  // namespace

v1::Layout LayoutOf(const std::string& name) {
  return name == "bshd" ? v1::LAYOUT_BSHD : name == "bhsd" ? v1::LAYOUT_BHSD : v1::LAYOUT_PACKED;
}

std::string LayoutName(v1::Layout layout) {
  return layout == v1::LAYOUT_BSHD ? "bshd" : layout == v1::LAYOUT_BHSD ? "bhsd" : "packed";
}

std::vector<float> AlibiSlopes(int64_t heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<float> slopes;
  for (int64_t i = 0; i < heads; ++i) {
    const double exponent = i < power ? static_cast<double>(i + 1) / static_cast<double>(power)
                                      : (static_cast<double>(i - power) + 0.5) / static_cast<double>(power);
    slopes.push_back(static_cast<float>(std::exp2(-8 * exponent)));
  }
  return slopes;
}

void RequestOptions::Register(OptionTable& table) {
  table.Section("Layout");
  table.Choice(
      "layout", {"packed", "bshd", "bhsd"}, &layout,
      "packed (default): (tokens, heads, dim), sequences one after another; bshd: (batch, tokens, heads, "
      "dim) padded; bhsd: (batch, heads, tokens, dim) padded");
  table.Value("q-lens", "N,...", &q_lens, "query tokens of each sequence; packed: none means one sequence");
  table.Value("kv-lens", "N,...", &kv_lens, "keys of each sequence; packed: none means those of --q-lens");

  table.Section("Attention");
  table.Value("scale", "X", &scale, "factor of the scores; default 1/sqrt(head_dim)");
  table.Switch("causal", &causal, "a query sees keys up to its own position");
  table.Choice("alignment", {"bottom-right", "top-left"}, &alignment,
               "when lengths differ: the last query is at the last key (default), or query 0 at key 0");
  table.Value(
      "window-left", "N", &window_left,
      "keys left of a query that stay visible; a sliding window of W tokens is --window-left=W-1 --causal");
  table.Value("window-right", "N", &window_right, "keys right of it; excludes --causal, which is 0");
  table.Value("diagonal-offsets", "N,...", &diagonal_offsets,
              "per sequence, the key position of query 0; overrides --alignment");
  table.Value("softcap", "X", &softcap, "scores become X * tanh(score / X)");
  table.Value("alibi", "auto|X,...", &alibi, "ALiBi slope of each query head, or those of the paper");
  table.Value("sinks", "X,...", &sinks, "sink logit of each query head; one value serves all");

  table.Section("Scales of fp8 bits");
  const char* const scales = "one, one for each head, or heads for each sequence; default 1";
  table.Value("q-scales", "X,...", &q_scales, scales);
  table.Value("k-scales", "X,...", &k_scales, scales);
  table.Value("v-scales", "X,...", &v_scales, scales);

  table.Section("Output");
  table.Choice("out-dtype", {"fp32", "fp16", "bf16"}, &output_dtype,
               "element type of the output; default that of q, bf16 for fp8");
  table.Switch("lse", &lse, "also compute the log-sum-exp of each row, fp32");

  table.Section("Request");
  table.Value("backend", "NAME", &backend, "a backend from 'tessera info'; default auto, the best that can");
  table.Value("id", "TEXT", &id, "name of the request in the reply and in the server's log");
}

absl::Status RequestOptions::Apply(AttendCall& call) const {
  call.id = id;
  call.backend = backend;
  call.layout = LayoutOf(layout);
  call.q_lens = q_lens;
  call.kv_lens = kv_lens;
  call.want_lse = lse;
  call.output_dtype = ParseDType(output_dtype).value_or(v1::DATA_TYPE_UNSPECIFIED);
  if (causal && window_right.value_or(0) != 0) {
    return UsageError("--causal is --window-right=0 and excludes another; drop one of the two");
  }

  TESSERA_TRY(SetScales("--q-scales", q_scales, call.q_scales));
  TESSERA_TRY(SetScales("--k-scales", k_scales, call.k_scales));
  TESSERA_TRY(SetScales("--v-scales", v_scales, call.v_scales));

  v1::AttentionOptions& options = call.options;
  if (scale) options.set_scale(*scale);
  options.set_causal(causal);
  options.set_alignment(alignment == "top-left" ? v1::ALIGNMENT_TOP_LEFT : v1::ALIGNMENT_BOTTOM_RIGHT);
  if (window_left) options.set_window_left(*window_left);
  if (window_right && !causal) options.set_window_right(*window_right);
  if (softcap) options.set_softcap(*softcap);
  options.mutable_diagonal_offsets()->Add(diagonal_offsets.begin(), diagonal_offsets.end());

  if (!alibi.empty()) {
    std::vector<float> slopes;
    if (alibi == "auto") {
      TESSERA_TRY_ASSIGN(const int64_t heads, HeadsOf(call, "--alibi=auto"));
      slopes = AlibiSlopes(heads);
    } else if (absl::Status status = ParseValue(alibi, &slopes); !status.ok()) {
      return UsageError(absl::StrCat("--alibi: ", std::string(status.message()), "; or pass --alibi=auto"));
    }
    options.mutable_alibi_slopes()->Add(slopes.begin(), slopes.end());
  }
  std::vector<float> all_sinks = sinks;
  if (sinks.size() == 1) {
    TESSERA_TRY_ASSIGN(const int64_t heads, HeadsOf(call, "--sinks"));
    all_sinks.assign(static_cast<size_t>(heads), sinks[0]);
  }
  options.mutable_sinks()->Add(all_sinks.begin(), all_sinks.end());
  return absl::OkStatus();
}

}  // namespace tessera::client
