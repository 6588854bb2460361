#include <functional>
#include <string>
#include <utility>

#include "tests/conformance/case_grid.h"
#include "tests/conformance/pairwise.h"

namespace tessera::testing {
namespace {

// A value of a factor: its part of the case's name (empty for the usual value), and what it does to the spec.
struct FactorValue {
  std::string name;
  std::function<void(ProblemSpec&)> apply;
};
using Factor = std::vector<FactorValue>;

Factor WideDTypes() {
  return {{"fp32", [](ProblemSpec& s) { s.dtype = TESSERA_DTYPE_FP32; }},
          {"fp16", [](ProblemSpec& s) { s.dtype = TESSERA_DTYPE_FP16; }},
          {"bf16", [](ProblemSpec& s) { s.dtype = TESSERA_DTYPE_BF16; }}};
}

Factor Fp8() {
  return {{"fp8", [](ProblemSpec& s) { s.dtype = TESSERA_DTYPE_FP8_E4M3; }}};
}

Factor OutputDTypes() {
  return {{"", [](ProblemSpec&) {}},
          {"to_fp32", [](ProblemSpec& s) { s.output_dtype = TESSERA_DTYPE_FP32; }},
          {"to_fp16", [](ProblemSpec& s) { s.output_dtype = TESSERA_DTYPE_FP16; }},
          {"to_bf16", [](ProblemSpec& s) { s.output_dtype = TESSERA_DTYPE_BF16; }}};
}

FactorValue Heads(int32_t q, int32_t kv) {
  return {"h" + std::to_string(q) + "x" + std::to_string(kv), [=](ProblemSpec& s) {
            s.num_q_heads = q;
            s.num_kv_heads = kv;
          }};
}

FactorValue HeadDims(int32_t qk, int32_t v) {
  return {"d" + std::to_string(qk) + (qk == v ? "" : "v" + std::to_string(v)), [=](ProblemSpec& s) {
            s.head_dim_qk = qk;
            s.head_dim_v = v;
          }};
}

FactorValue Batch(std::string name, std::vector<Lengths> sequences) {
  return {std::move(name), [=](ProblemSpec& s) { s.sequences = sequences; }};
}

Factor Batches() {
  return {Batch("q1_k257", {{1, 257}, {1, 96}}), Batch("q65_k65", {{65, 65}}), Batch("q33_k130", {{33, 130}}),
          Batch("q70_k31", {{70, 31}}), Batch("ragged", {{5, 40}, {0, 9}, {64, 100}, {1, 1}, {17, 17}})};
}

Factor Layouts() {
  return {{"", [](ProblemSpec& s) { s.layout = Layout::kPacked; }},
          {"gapped", [](ProblemSpec& s) { s.layout = Layout::kGapped; }},
          {"bshd", [](ProblemSpec& s) { s.layout = Layout::kBshd; }},
          {"bhsd", [](ProblemSpec& s) { s.layout = Layout::kBhsd; }}};
}

Factor Windows() {
  const auto window = [](WindowSpec w) { return [=](ProblemSpec& s) { s.window = w; }; };
  return {{"", window({})},
          {"causal", window({.right = 0})},
          {"causal_topleft", window({.right = 0, .alignment = Alignment::kTopLeft})},
          {"sliding", window({.left = 15, .right = 0})},
          {"sliding_topleft", window({.left = 15, .right = 0, .alignment = Alignment::kTopLeft})},
          {"window", window({.left = 20, .right = 9})}};
}

Factor Masks() {
  const auto mask = [](MaskSpec m) { return [=](ProblemSpec& s) { s.mask = m; }; };
  return {{"", mask({})},
          {"boolmask", mask({.kind = TESSERA_MASK_BOOLEAN, .dtype = TESSERA_DTYPE_BOOL})},
          {"keypadding", mask({.kind = TESSERA_MASK_BOOLEAN,
                               .dtype = TESSERA_DTYPE_BOOL,
                               .per_head = false,
                               .per_query = false})},
          {"bias32", mask({.kind = TESSERA_MASK_ADDITIVE, .dtype = TESSERA_DTYPE_FP32, .per_head = false})},
          {"bias16", mask({.kind = TESSERA_MASK_ADDITIVE, .dtype = TESSERA_DTYPE_FP16, .per_query = false})},
          {"biasb16", mask({.kind = TESSERA_MASK_ADDITIVE, .dtype = TESSERA_DTYPE_BF16})}};
}

std::vector<Factor> Factors(const Factor& dtypes) {
  return {dtypes,
          OutputDTypes(),
          {Heads(3, 3), Heads(6, 2), Heads(4, 1)},
          {HeadDims(64, 64), HeadDims(128, 128), HeadDims(80, 80), HeadDims(40, 72), HeadDims(192, 128)},
          Batches(),
          Layouts(),
          Windows(),
          Masks(),
          {{"", [](ProblemSpec&) {}}, {"scaled", [](ProblemSpec& s) { s.scale_factor = 1.7f; }}},
          {{"", [](ProblemSpec&) {}}, {"softcap", [](ProblemSpec& s) { s.softcap = 1.5f; }}},
          {{"", [](ProblemSpec&) {}}, {"alibi", [](ProblemSpec& s) { s.alibi = true; }}},
          {{"", [](ProblemSpec&) {}}, {"sinks", [](ProblemSpec& s) { s.sinks = true; }}},
          {{"", [](ProblemSpec&) {}}, {"nolse", [](ProblemSpec& s) { s.lse = false; }}}};
}

void AddPairs(const std::vector<Factor>& factors, std::vector<ProblemSpec>& cases) {
  std::vector<int> sizes;
  for (const Factor& factor : factors) sizes.push_back(static_cast<int>(factor.size()));
  for (const std::vector<int>& row : CoverAllPairs(sizes)) {
    ProblemSpec spec;
    spec.name = "pair";
    for (size_t f = 0; f < factors.size(); ++f) {
      const FactorValue& value = factors[f][static_cast<size_t>(row[f])];
      value.apply(spec);
      if (!value.name.empty()) spec.name += "_" + value.name;
    }
    cases.push_back(std::move(spec));
  }
}

}  // namespace

std::vector<ProblemSpec> PairwiseCases() {
  std::vector<ProblemSpec> cases;
  AddPairs(Factors(WideDTypes()), cases);
  // By itself, so that a backend without fp8 still sees every pair.
  AddPairs(Factors(Fp8()), cases);
  return cases;
}

}  // namespace tessera::testing
