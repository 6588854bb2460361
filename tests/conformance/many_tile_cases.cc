#include <string>
#include <utility>

#include "backend/core/dtype.h"
#include "tests/conformance/case_grid.h"

namespace tessera::testing {
namespace {

constexpr WindowSpec kCausal{.right = 0};
constexpr WindowSpec kCausalTopLeft{.right = 0, .alignment = Alignment::kTopLeft};
constexpr MaskSpec kBooleanMask{.kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL};
constexpr MaskSpec kAlignedMask{
    .kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL, .row_alignment = 16};
constexpr MaskSpec kAlignedBias{
    .kind = TESSERA_MASK_ADDITIVE, .dtype = TESSERA_DTYPE_BF16, .row_alignment = 16};
constexpr int kManyRuns = 20;

// Lengths from 0 to `longest` in no order: some queries have no keys, some keys no queries, and queries may
// outnumber keys.
std::vector<Lengths> MixedLengths(int64_t count, int64_t longest) {
  std::vector<Lengths> lengths;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t q = i * 83 % (longest + 1), kv = i * 37 % (longest + 1);
    lengths.push_back({i % 29 == 7 ? 0 : q, i % 31 == 11 ? 0 : kv});
  }
  return lengths;
}

// The cases of one dtype, whose name each begins with, of these heads and of 6 x 2.
class ManyTileList {
 public:
  explicit ManyTileList(tessera_dtype dtype) : dtype_(dtype) {}

  // The spec's dtype is set here, and so are its head dims and sequences where they are not given: some 800
  // tiles of 128 rows.
  void Add(const std::string& name, ProblemSpec spec, int32_t dim = 16, int64_t count = 160,
           int64_t longest = 200) {
    spec.name = DTypeName(dtype_) + "_many_tiles_" + name + "_h" + std::to_string(spec.num_q_heads) + "x" +
                std::to_string(spec.num_kv_heads);
    spec.dtype = dtype_;
    spec.head_dim_qk = spec.head_dim_v = dim;
    spec.sequences = MixedLengths(count, longest);
    cases_.push_back(std::move(spec));
  }

  void AddEdges();
  void AddFeatures();
  void AddHeadDims();
  void AddHeads();
  void AddManyRuns();

  std::vector<ProblemSpec> Take() { return std::move(cases_); }

 private:
  const tessera_dtype dtype_;
  std::vector<ProblemSpec> cases_;
};

void ManyTileList::AddEdges() {
  Add("causal", {.num_q_heads = 8, .num_kv_heads = 2, .window = kCausal});
  Add("causal", {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausal});
  Add("nan_behind_the_diagonal",
      {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausalTopLeft, .values = Values::kNanInHiddenKeys});
  Add("nan_in_value_causal",
      {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausal, .values = Values::kNanInValue});
  Add("gapped", {.num_q_heads = 6, .num_kv_heads = 2, .layout = Layout::kGapped, .window = kCausal});
  Add("fused_qkv", {.num_q_heads = 8, .num_kv_heads = 2, .layout = Layout::kFusedQkv, .window = kCausal});
}

void ManyTileList::AddFeatures() {
  Add("boolmask", {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausal, .mask = kBooleanMask});
  Add("boolmask_nan_in_hidden_keys",
      {.num_q_heads = 8, .num_kv_heads = 2, .mask = kAlignedMask, .values = Values::kNanInHiddenKeys});
  Add("softcap", {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausal, .softcap = 1.5f});
  Add("alibi_sinks", {.num_q_heads = 6, .num_kv_heads = 2, .window = kCausal, .alibi = true, .sinks = true});
  Add("window", {.num_q_heads = 8, .num_kv_heads = 2, .window = {.left = 20, .right = 9}});
}

void ManyTileList::AddHeadDims() {
  const auto add = [this](const std::string& name, ProblemSpec spec, int32_t dim) {
    spec.num_q_heads = 6;
    spec.num_kv_heads = 2;
    Add(name + "_d" + std::to_string(dim), std::move(spec), dim, /*count=*/110, /*longest=*/90);
  };
  for (int32_t dim : {128, 192, 256}) add("causal", {.window = kCausal}, dim);
  add("softcap", {.window = kCausal, .softcap = 1.5f}, 256);
  add("boolmask", {.window = kCausal, .mask = kAlignedMask}, 128);
}

// Groups that divide no tile, of which few heads are packed into one, or none.
void ManyTileList::AddHeads() {
  for (int32_t heads : {9, 15, 17, 71}) {
    Add("causal_q300", {.num_q_heads = heads, .num_kv_heads = 1, .window = kCausal});
    cases_.back().sequences = {{300, 100}, {300, 300}};
  }
}

// Tiles of fewer rows than the kernel's, as what a group's heads do not divide: the rows that are left over
// hold what an earlier tile, or another launch, left there.
void ManyTileList::AddManyRuns() {
  const auto add = [this](const std::string& name, ProblemSpec spec, int32_t q_heads, int32_t dim) {
    spec.num_q_heads = q_heads;
    spec.num_kv_heads = 2;
    spec.runs = kManyRuns;
    Add("many_runs_" + name + "_d" + std::to_string(dim), std::move(spec), dim, /*count=*/100,
        /*longest=*/150);
  };
  add("causal", {.window = kCausal}, 10, 16);
  add("softcap", {.softcap = 1.5f}, 6, 16);
  add("softcap_causal", {.window = kCausal, .softcap = 30}, 10, 16);
  add("softcap", {.softcap = 1.5f}, 6, 128);
  add("boolmask", {.mask = kBooleanMask}, 10, 16);
  add("boolmask_aligned", {.window = kCausal, .mask = kAlignedMask}, 10, 16);
  add("bias_aligned", {.mask = kAlignedBias}, 6, 128);
  add("alibi", {.window = kCausal, .alibi = true}, 10, 16);
  add("softcap_boolmask", {.softcap = 1.5f, .mask = kBooleanMask}, 6, 16);
}

}  // namespace

std::vector<ProblemSpec> ManyTileCases() {
  std::vector<ProblemSpec> all;
  for (tessera_dtype dtype : {TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP8_E4M3}) {
    ManyTileList list(dtype);
    list.AddEdges();
    // The kernels for fp16 and bf16 differ in the dtype alone.
    if (dtype != TESSERA_DTYPE_FP16) {
      list.AddFeatures();
      list.AddHeadDims();
      list.AddHeads();
      list.AddManyRuns();
    }
    for (ProblemSpec& spec : list.Take()) all.push_back(std::move(spec));
  }
  return all;
}

}  // namespace tessera::testing
