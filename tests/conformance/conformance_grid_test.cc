// The suite's own tests: the grid covers what it claims, and a feature that a backend ignored would be
// noticed.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "backend/core/dtype.h"
#include "tests/conformance/case_grid.h"
#include "tests/conformance/error_metric.h"
#include "tests/conformance/pairwise.h"
#include "tests/conformance/problem_builder.h"

namespace tessera::testing {
namespace {

TEST(PairwiseTest, CoversEveryPairOfValues) {
  const std::vector<int> values = {3, 4, 3, 5, 5, 4, 6, 6, 2, 2, 2, 2, 2};
  const std::vector<std::vector<int>> rows = CoverAllPairs(values);
  for (size_t f = 0; f < values.size(); ++f) {
    for (size_t g = f + 1; g < values.size(); ++g) {
      std::set<std::pair<int, int>> seen;
      for (const std::vector<int>& row : rows) seen.insert({row[f], row[g]});
      EXPECT_EQ(seen.size(), static_cast<size_t>(values[f] * values[g])) << "factors " << f << " and " << g;
    }
  }
  EXPECT_GE(rows.size(), 36u);  // the two largest factors alone need 6 * 6
  EXPECT_LE(rows.size(), 72u);  // and a greedy choice should not need twice that
}

// What a spec uses, by name, so that the pairs of the real grid are counted from the specs and not from the
// generator.
std::vector<std::string> Properties(const ProblemSpec& s) {
  const auto number = [](int64_t n) { return std::to_string(n); };
  return {"dtype " + number(s.dtype),
          "output " + number(s.output_dtype),
          "heads " + number(s.num_q_heads) + "/" + number(s.num_kv_heads),
          "dims " + number(s.head_dim_qk) + "/" + number(s.head_dim_v),
          "batch " + number(static_cast<int64_t>(s.sequences.size())) + ":" + number(s.sequences[0].q),
          "layout " + number(static_cast<int>(s.layout)),
          "window " + number(s.window.left) + "," + number(s.window.right) + "," +
              number(static_cast<int>(s.window.alignment)),
          "mask " + number(s.mask.kind) + "," + number(s.mask.dtype) + "," + number(s.mask.per_head) +
              number(s.mask.per_query),
          std::string("scale ") + (s.scale_factor == 1 ? "usual" : "own"),
          std::string("softcap ") + (s.softcap > 0 ? "on" : "off"),
          std::string("alibi ") + (s.alibi ? "on" : "off"),
          std::string("sinks ") + (s.sinks ? "on" : "off"),
          std::string("lse ") + (s.lse ? "on" : "off")};
}

TEST(ConformanceGridTest, PairsEveryTwoFeatureValues) {
  const std::vector<ProblemSpec> cases = PairwiseCases();
  const size_t factors = Properties(cases[0]).size();
  std::vector<std::set<std::string>> values(factors);
  std::set<std::pair<std::string, std::string>> pairs;
  for (const ProblemSpec& spec : cases) {
    const std::vector<std::string> properties = Properties(spec);
    for (size_t f = 0; f < factors; ++f) {
      values[f].insert(properties[f]);
      for (size_t g = f + 1; g < factors; ++g) pairs.insert({properties[f], properties[g]});
    }
  }
  for (size_t f = 0; f < factors; ++f) {
    EXPECT_GE(values[f].size(), 2u) << *values[f].begin() << " is the only value of its factor";
    for (size_t g = f + 1; g < factors; ++g) {
      for (const std::string& a : values[f]) {
        for (const std::string& b : values[g]) EXPECT_EQ(pairs.count({a, b}), 1u) << a << " with " << b;
      }
    }
  }
}

std::vector<ProblemSpec> AllCases() {
  std::vector<ProblemSpec> all = ConformanceGrid();
  for (ProblemSpec& spec : ManyTileCases()) all.push_back(std::move(spec));
  return all;
}

TEST(ConformanceGridTest, NamesAreUnique) {
  std::set<std::string> names;
  for (const ProblemSpec& spec : AllCases()) EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
}

TEST(ConformanceGridTest, EveryProblemIsValidAndEveryFeatureUsed) {
  uint32_t features = 0;
  for (const ProblemSpec& spec : ConformanceGrid()) {
    const HostProblem host = BuildProblem(spec, 1);
    EXPECT_TRUE(Validate(host.problem()).ok()) << spec.name << ": " << Validate(host.problem());
    features |= FeaturesOf(host.problem());
  }
  EXPECT_EQ(features, static_cast<uint32_t>(TESSERA_FEATURE_ALL));
}

TEST(ConformanceGridTest, EveryProblemOfManyTilesIsValid) {
  for (ProblemSpec spec : ManyTileCases()) {
    spec.head_dim_qk = spec.head_dim_v = 1;  // to draw all numbers would take most of the test's time
    const HostProblem host = BuildProblem(spec, 1);
    EXPECT_TRUE(Validate(host.problem()).ok()) << spec.name << ": " << Validate(host.problem());
  }
}

TEST(ConformanceGridTest, MaskRowsAreAlignedAsSaidAndNoFurther) {
  for (const ProblemSpec& spec : MemoryCases()) {
    if (spec.mask.row_alignment == 0) continue;
    const HostProblem host = BuildProblem(spec, 1);
    const AttentionProblem& p = host.problem();
    int64_t strides = 0;
    for (int64_t n = 0; n < p.num_sequences; ++n) {
      const Sequence& s = p.sequences[n];
      EXPECT_GE(s.mask_q_stride, s.kv_len) << spec.name;
      const auto begin = static_cast<const std::byte*>(s.mask) - host.mask_memory().data();
      EXPECT_EQ(begin % spec.mask.row_alignment, 0) << spec.name;
      strides |= (s.mask_q_stride | s.mask_head_stride) * DTypeSize(p.mask_dtype);
    }
    EXPECT_EQ(strides & -strides, spec.mask.row_alignment) << spec.name;
  }
}

// A feature, how to take it out of a problem, and how much of the grid uses it.
struct Feature {
  const char* name;
  std::function<bool(const ProblemSpec&)> is_used;
  std::function<void(AttentionProblem&, std::vector<Sequence>&)> remove;
};

bool IsFp8(const ProblemSpec& spec) { return spec.dtype == TESSERA_DTYPE_FP8_E4M3; }

std::vector<Feature> Features() {
  const auto each = [](auto change) {
    return [change](AttentionProblem&, std::vector<Sequence>& sequences) {
      for (Sequence& s : sequences) change(s);
    };
  };
  return {
      {"scale", [](const ProblemSpec& s) { return s.scale_factor != 1; },
       [](AttentionProblem& p, auto&) { p.scale = 1 / std::sqrt(static_cast<float>(p.head_dim_qk)); }},
      {"softcap", [](const ProblemSpec& s) { return s.softcap > 0; },
       [](AttentionProblem& p, auto&) { p.softcap = 0; }},
      {"alibi", [](const ProblemSpec& s) { return s.alibi; },
       [](AttentionProblem& p, auto&) { p.alibi_slopes = nullptr; }},
      {"sinks", [](const ProblemSpec& s) { return s.sinks; },
       [](AttentionProblem& p, auto&) { p.sinks = nullptr; }},
      {"boolean mask", [](const ProblemSpec& s) { return s.mask.kind == TESSERA_MASK_BOOLEAN; },
       [](AttentionProblem& p, auto&) { p.mask_kind = TESSERA_MASK_NONE; }},
      {"additive mask", [](const ProblemSpec& s) { return s.mask.kind == TESSERA_MASK_ADDITIVE; },
       [](AttentionProblem& p, auto&) { p.mask_kind = TESSERA_MASK_NONE; }},
      {"mask strides",
       [](const ProblemSpec& s) { return s.mask.kind == TESSERA_MASK_BOOLEAN && s.mask.per_head; },
       each([](Sequence& s) { s.mask_head_stride = 0; })},
      {"causal", [](const ProblemSpec& s) { return s.window.right == 0; },
       each([](Sequence& s) { s.window_right = -1; })},
      {"window left", [](const ProblemSpec& s) { return s.window.left >= 0; },
       each([](Sequence& s) { s.window_left = -1; })},
      {"window right", [](const ProblemSpec& s) { return s.window.right > 0; },
       each([](Sequence& s) { s.window_right = -1; })},
      {"bottom-right alignment",
       [](const ProblemSpec& s) {
         return s.window.right == 0 && s.window.alignment == Alignment::kBottomRight;
       },
       each([](Sequence& s) { s.diagonal_offset = 0; })},
      {"top-left alignment",
       [](const ProblemSpec& s) { return s.window.right == 0 && s.window.alignment == Alignment::kTopLeft; },
       each([](Sequence& s) { s.diagonal_offset = s.kv_len - s.q_len; })},
      {"q scales", IsFp8, [](AttentionProblem& p, auto&) { p.q_scales = {}; }},
      {"k scales", IsFp8, [](AttentionProblem& p, auto&) { p.k_scales = {}; }},
      {"v scales", IsFp8, [](AttentionProblem& p, auto&) { p.v_scales = {}; }},
      {"v scales of heads", [](const ProblemSpec& s) { return IsFp8(s) && s.num_kv_heads > 1; },
       [](AttentionProblem& p, auto&) { p.v_scales.head_stride = 0; }},
      {"v scales of sequences", [](const ProblemSpec& s) { return IsFp8(s) && s.sequences.size() > 1; },
       [](AttentionProblem& p, auto&) { p.v_scales.sequence_stride = 0; }},
      {"GQA", [](const ProblemSpec& s) { return s.num_q_heads > s.num_kv_heads && s.num_kv_heads > 1; },
       // Every query head with the first kv head.
       [](AttentionProblem& p, auto&) { p.k.head_stride = p.v.head_stride = 0; }},
  };
}

double DistanceWithout(const Feature& feature, const ProblemSpec& spec) {
  const HostProblem host = BuildProblem(spec, 7);
  AttentionProblem without = host.problem();
  std::vector<Sequence> sequences(without.sequences, without.sequences + without.num_sequences);
  without.sequences = sequences.data();
  feature.remove(without, sequences);
  const ReferenceResult changed = ComputeReference(without);
  const ErrorBounds none{.relative = INFINITY, .row = INFINITY, .lse = INFINITY};
  // Rows that become or cease to be zero fail outright, and are differences as well.
  const ErrorReport report =
      CompareOutputs(host.problem(), ComputeReference(host.problem()), {.o = changed.o, .lse = {}}, none);
  return report.failure.empty() ? report.relative : 1.0;
}

// The loosest bound of the grid is 3e-2 (fp8).
TEST(ConformanceGridTest, AnIgnoredFeatureIsFarOutOfBounds) {
  for (const Feature& feature : Features()) {
    int cases = 0, sensitive = 0;
    for (const ProblemSpec& spec : PairwiseCases()) {
      if (!feature.is_used(spec)) continue;
      ++cases;
      if (DistanceWithout(feature, spec) > 0.05) ++sensitive;
    }
    // A few combinations hide a feature: a decode step sees the same keys with and without causality.
    EXPECT_GE(sensitive, 5) << feature.name << ", used by " << cases << " cases";
    EXPECT_GE(sensitive * 3, cases) << feature.name << ": " << sensitive << " of " << cases
                                    << " cases notice";
  }
}

}  // namespace
}  // namespace tessera::testing
