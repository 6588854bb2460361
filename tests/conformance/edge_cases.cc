#include <string>
#include <utility>

#include "backend/core/dtype.h"
#include "tests/conformance/case_grid.h"

namespace tessera::testing {
namespace {

constexpr WindowSpec kCausal{.right = 0};
constexpr MaskSpec kBooleanMask{.kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL};
constexpr MaskSpec kKeyPadding{
    .kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL, .per_head = false, .per_query = false};

// Collects the cases of one dtype, whose name each begins with.
class EdgeCaseList {
 public:
  explicit EdgeCaseList(tessera_dtype dtype) : dtype_(dtype) {}

  // The spec's dtype is set here; `name` says what is special.
  void Add(const std::string& name, ProblemSpec spec) {
    spec.name = DTypeName(dtype_) + "_" + name;
    spec.dtype = dtype_;
    cases_.push_back(std::move(spec));
  }

  void AddLengths();
  void AddTileEdges();
  void AddHeads();
  void AddHeadDims();
  void AddWindows();
  void AddMasks();
  void AddLogits();
  void AddNanAndInf();
  void AddLong();
  void AddScales();  // of fp8 only

  std::vector<ProblemSpec> Take() { return std::move(cases_); }

 private:
  const tessera_dtype dtype_;
  std::vector<ProblemSpec> cases_;
};

void EdgeCaseList::AddLengths() {
  Add("no_sequences", {.sequences = {}});
  Add("q1_k1", {.sequences = {{1, 1}}});
  Add("q0_k64", {.sequences = {{0, 64}}});
  Add("q64_k0", {.sequences = {{64, 0}}});
  Add("q64_k0_sinks", {.sequences = {{64, 0}}, .sinks = true});
  Add("lengths_0_and_1", {.sequences = {{0, 0}, {0, 7}, {5, 0}, {1, 1}, {1, 9}, {9, 1}, {0, 1}, {3, 4}}});
  Add("lengths_0_and_1_causal_bhsd", {.sequences = {{0, 0}, {0, 7}, {5, 0}, {1, 1}, {1, 9}, {9, 1}, {3, 4}},
                                      .layout = Layout::kBhsd,
                                      .window = kCausal});
  Add("q100_k37", {.sequences = {{100, 37}}});
  Add("causal_q100_k37", {.sequences = {{100, 37}}, .window = kCausal});
  Add("causal_topleft_q100_k37",
      {.sequences = {{100, 37}}, .window = {.right = 0, .alignment = Alignment::kTopLeft}});
  std::vector<Lengths> decode;
  for (int64_t kv = 1; kv <= 64; ++kv) decode.push_back({1, kv * 5 % 67 + 1});
  Add("decode_of_64_sequences", {.num_q_heads = 4, .num_kv_heads = 2, .sequences = decode});
  Add("shared_keys", {.sequences = {{3, 90}, {1, 60}, {7, 90}}, .shared_kv = true, .window = kCausal});
}

// One less than, exactly, and one more than the multiples that tiles are likely to have.
void EdgeCaseList::AddTileEdges() {
  std::vector<Lengths> batch;
  for (int64_t tile : {8, 16, 32, 64, 128}) {
    for (int64_t q : {tile - 1, tile, tile + 1}) batch.push_back({q, 2 * tile + (q - tile)});
    batch.push_back({tile - 1, tile + 1});
    batch.push_back({tile + 1, tile - 1});
  }
  Add("tile_edges",
      {.num_q_heads = 1, .num_kv_heads = 1, .head_dim_qk = 32, .head_dim_v = 32, .sequences = batch});
  Add("tile_edges_causal", {.num_q_heads = 2,
                            .num_kv_heads = 1,
                            .head_dim_qk = 32,
                            .head_dim_v = 32,
                            .sequences = batch,
                            .window = kCausal});
  Add("causal_q255_k257",
      {.num_q_heads = 1, .num_kv_heads = 1, .sequences = {{255, 257}}, .window = kCausal});
  Add("causal_q257_k255",
      {.num_q_heads = 1, .num_kv_heads = 1, .sequences = {{257, 255}}, .window = kCausal});
  Add("q384_k512", {.num_q_heads = 1, .num_kv_heads = 1, .sequences = {{384, 512}}});
}

void EdgeCaseList::AddHeads() {
  constexpr std::pair<int32_t, int32_t> kHeads[] = {{1, 1},  {5, 5}, {2, 1},  {14, 2}, {24, 3},
                                                    {32, 1}, {9, 1}, {15, 1}, {17, 1}, {71, 1}};
  for (const auto& [q, kv] : kHeads) {
    const std::string heads = "h" + std::to_string(q) + "x" + std::to_string(kv);
    Add(heads + "_q1_k150", {.num_q_heads = q, .num_kv_heads = kv, .sequences = {{1, 150}, {1, 3}}});
    Add(heads + "_causal_q19_k45",
        {.num_q_heads = q, .num_kv_heads = kv, .sequences = {{19, 45}}, .window = kCausal});
  }
}

void EdgeCaseList::AddHeadDims() {
  constexpr std::pair<int32_t, int32_t> kDims[] = {
      {1, 8},     {3, 5},     {8, 8},    {16, 16},   {31, 33},   {32, 32},    {48, 48},
      {63, 65},   {72, 72},   {96, 96},  {100, 100}, {112, 112}, {127, 129},  {160, 160},
      {192, 128}, {256, 256}, {64, 512}, {512, 64},  {576, 512}, {1024, 1024}};
  for (const auto& [qk, v] : kDims) {
    Add("d" + std::to_string(qk) + "v" + std::to_string(v) + "_q21_k50",
        {.num_q_heads = 4, .num_kv_heads = 2, .head_dim_qk = qk, .head_dim_v = v, .sequences = {{21, 50}}});
  }
}

void EdgeCaseList::AddWindows() {
  const auto add = [&](const std::string& name, WindowSpec window, Lengths lengths) {
    Add(name, {.sequences = {lengths}, .window = window});
  };
  add("window_of_the_diagonal", {.left = 0, .right = 0}, {70, 70});
  add("window_left0", {.left = 0}, {70, 90});
  add("window_right3", {.right = 3}, {70, 90});
  add("window_wider_than_keys", {.left = 1000, .right = 1000}, {40, 90});
  add("window_left127_right0_q200_k300", {.left = 127, .right = 0}, {200, 300});
  add("window_before_all_keys", {.left = 5, .right = 5, .shift = -1000}, {40, 90});
  add("window_behind_all_keys", {.left = 5, .right = 5, .shift = 1000}, {40, 90});
  add("causal_shifted_left", {.right = 0, .shift = -60}, {40, 90});
  add("causal_shifted_right", {.right = 0, .shift = 25}, {40, 90});
  add("window_far_offset", {.right = 0, .shift = int64_t{1} << 39}, {8, 20});
  Add("window_before_all_keys_sinks",
      {.sequences = {{40, 90}}, .window = {.left = 5, .right = 5, .shift = -1000}, .sinks = true});
}

void EdgeCaseList::AddMasks() {
  for (int broadcast = 0; broadcast < 8; ++broadcast) {
    const bool head = (broadcast & 1) != 0, query = (broadcast & 2) != 0, key = (broadcast & 4) != 0;
    const std::string dims = std::string(head ? "h" : "") + (query ? "q" : "") + (key ? "k" : "");
    const std::string name = dims.empty() ? "scalar" : dims;
    const auto mask = [&](tessera_mask_kind kind, tessera_dtype dtype) {
      return MaskSpec{.kind = kind, .dtype = dtype, .per_head = head, .per_query = query, .per_key = key};
    };
    Add("boolmask_" + name,
        {.sequences = {{20, 45}, {3, 70}}, .mask = mask(TESSERA_MASK_BOOLEAN, TESSERA_DTYPE_BOOL)});
    Add("bias_" + name,
        {.sequences = {{20, 45}, {3, 70}}, .mask = mask(TESSERA_MASK_ADDITIVE, TESSERA_DTYPE_FP32)});
  }
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    Add("bias_lowest_" + DTypeName(dtype),
        {.sequences = {{20, 45}, {5, 70}},
         .mask = {.kind = TESSERA_MASK_ADDITIVE, .dtype = dtype, .hides_by_lowest = true}});
  }
  Add("boolmask_causal_sinks",
      {.sequences = {{64, 64}}, .window = kCausal, .sinks = true, .mask = kBooleanMask});
}

void EdgeCaseList::AddLogits() {
  Add("huge_logits", {.num_q_heads = 4, .sequences = {{150, 90}}, .values = Values::kHugeLogits});
  Add("huge_logits_causal_softcap30", {.num_q_heads = 4,
                                       .sequences = {{150, 90}},
                                       .window = kCausal,
                                       .softcap = 30,
                                       .values = Values::kHugeLogits});
  Add("tiny_logits", {.sequences = {{40, 90}}, .values = Values::kTinyLogits});
  Add("softcap_1000", {.sequences = {{40, 90}, {3, 1}}, .softcap = 1000});
  Add("softcap_1e6", {.sequences = {{40, 90}, {3, 1}}, .softcap = 1e6f});
  Add("tiny_softcap", {.sequences = {{40, 90}}, .softcap = 1e-3f});
  Add("scale_0", {.sequences = {{40, 90}}, .scale_factor = 0});
  Add("scale_negative", {.sequences = {{40, 90}}, .scale_factor = -1});
  Add("alibi_q8_k700", {.num_q_heads = 8, .num_kv_heads = 2, .sequences = {{8, 700}}, .alibi = true});
  Add("alibi_keys_ahead", {.num_q_heads = 4, .sequences = {{700, 700}}, .alibi = true});
}

void EdgeCaseList::AddNanAndInf() {
  Add("nan_in_masked_keys",
      {.sequences = {{20, 61}, {4, 9}}, .mask = kKeyPadding, .values = Values::kNanInHiddenKeys});
  Add("nan_behind_the_diagonal", {.sequences = {{50, 90}},
                                  .window = {.right = 0, .alignment = Alignment::kTopLeft},
                                  .values = Values::kNanInHiddenKeys});
  Add("nan_left_of_the_window",
      {.sequences = {{10, 200}}, .window = {.left = 30, .right = 0}, .values = Values::kNanInHiddenKeys});
  Add("nan_in_biased_keys", {.sequences = {{20, 61}},
                             .mask = {.kind = TESSERA_MASK_ADDITIVE,
                                      .dtype = TESSERA_DTYPE_FP32,
                                      .per_head = false,
                                      .per_query = false},
                             .values = Values::kNanInHiddenKeys});
  const std::pair<const char*, Values> kinds[] = {{"nan_in_key", Values::kNanInKey},
                                                  {"nan_in_value", Values::kNanInValue},
                                                  {"inf_in_value", Values::kInfInValue},
                                                  {"inf_in_query", Values::kInfInQuery}};
  const bool has_infinity = dtype_ != TESSERA_DTYPE_FP8_E4M3;
  for (const auto& [name, values] : kinds) {
    if (!has_infinity && (values == Values::kInfInValue || values == Values::kInfInQuery)) continue;
    Add(name, {.num_q_heads = 4, .sequences = {{20, 61}}, .values = values});
    // Some rows see the key and some do not.
    if (values == Values::kInfInQuery) continue;
    Add(std::string(name) + "_q20_k128", {.num_q_heads = 4, .sequences = {{20, 128}}, .values = values});
    Add(std::string(name) + "_causal",
        {.num_q_heads = 4, .sequences = {{60, 61}}, .window = kCausal, .values = values});
    Add(std::string(name) + "_boolmask",
        {.num_q_heads = 4, .sequences = {{60, 61}}, .mask = kBooleanMask, .values = values});
  }
  if (has_infinity)
    Add("inf_in_query_softcap", {.sequences = {{20, 61}}, .softcap = 2, .values = Values::kInfInQuery});
}

void EdgeCaseList::AddLong() {
  const auto add = [&](const std::string& name, int32_t q_heads, int32_t dim, Lengths lengths,
                       WindowSpec window) {
    Add(name, {.num_q_heads = q_heads,
               .num_kv_heads = 1,
               .head_dim_qk = dim,
               .head_dim_v = dim,
               .sequences = {lengths},
               .window = window});
  };
  add("d128_causal_q1_k4097", 4, 128, {1, 4097}, kCausal);
  add("d128_q1_k4096", 1, 128, {1, 4096}, {});
  add("d64_causal_q130_k4096", 2, 64, {130, 4096}, kCausal);
  add("d64_sliding_q1000_k4000", 1, 64, {1000, 4000}, {.left = 255, .right = 0});
  add("d128_causal_q1024_k1024", 1, 128, {1024, 1024}, kCausal);
}

void EdgeCaseList::AddScales() {
  const std::pair<const char*, Scales> kinds[] = {{"scales_of_sequence_and_head", Scales::kOfSequenceAndHead},
                                                  {"scales_of_head", Scales::kOfHead},
                                                  {"one_scale", Scales::kOne},
                                                  {"no_scales", Scales::kNone}};
  const std::vector<Lengths> ragged = {{40, 90}, {1, 300}, {0, 5}, {130, 129}, {7, 3}};
  for (const auto& [name, scales] : kinds) {
    for (int32_t dim : {64, 128, 256}) {
      Add(std::string(name) + "_causal_d" + std::to_string(dim), {.num_q_heads = 6,
                                                                  .num_kv_heads = 2,
                                                                  .head_dim_qk = dim,
                                                                  .head_dim_v = dim,
                                                                  .sequences = ragged,
                                                                  .window = kCausal,
                                                                  .scales = scales});
    }
  }
  Add("scales_softcap_alibi_sinks",
      {.num_q_heads = 4, .sequences = ragged, .softcap = 20, .alibi = true, .sinks = true});
  Add("scales_boolmask", {.num_q_heads = 4, .sequences = ragged, .mask = kBooleanMask});
  Add("scales_negative_scale", {.num_q_heads = 4, .sequences = ragged, .scale_factor = -1});
  Add("scales_sliding_to_fp32", {.output_dtype = TESSERA_DTYPE_FP32,
                                 .num_q_heads = 4,
                                 .num_kv_heads = 1,
                                 .sequences = ragged,
                                 .window = {.left = 31, .right = 0}});
  Add("scales_decode_to_fp16", {.output_dtype = TESSERA_DTYPE_FP16,
                                .num_q_heads = 8,
                                .num_kv_heads = 2,
                                .head_dim_qk = 128,
                                .head_dim_v = 128,
                                .sequences = {{1, 4096}, {1, 70}, {1, 1}}});
}

}  // namespace

std::vector<ProblemSpec> EdgeCases() {
  std::vector<ProblemSpec> all;
  for (tessera_dtype dtype :
       {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP8_E4M3}) {
    EdgeCaseList list(dtype);
    list.AddLengths();
    list.AddTileEdges();
    list.AddHeads();
    list.AddHeadDims();
    list.AddWindows();
    list.AddMasks();
    list.AddLogits();
    list.AddNanAndInf();
    list.AddLong();
    if (dtype == TESSERA_DTYPE_FP8_E4M3) list.AddScales();
    for (ProblemSpec& spec : list.Take()) all.push_back(std::move(spec));
  }
  return all;
}

std::vector<ProblemSpec> ConformanceGrid() {
  std::vector<ProblemSpec> grid = EdgeCases();
  for (ProblemSpec& spec : PairwiseCases()) grid.push_back(std::move(spec));
  for (ProblemSpec& spec : MemoryCases()) grid.push_back(std::move(spec));
  return grid;
}

bool IsUnitNormal(const ProblemSpec& spec) {
  for (const Lengths& lengths : spec.sequences) {
    if (lengths.kv > 4096) return false;
  }
  return spec.values != Values::kHugeLogits && spec.scale_factor == 1 && spec.head_dim_qk <= 256 &&
         spec.mask.kind != TESSERA_MASK_ADDITIVE;
}

}  // namespace tessera::testing
