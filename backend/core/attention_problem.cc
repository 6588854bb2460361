#include "backend/core/attention_problem.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "backend/core/saturating.h"

namespace tessera {
namespace {

std::span<const Sequence> SequencesOf(const AttentionProblem& problem) {
  if (problem.sequences == nullptr || problem.num_sequences <= 0) return {};
  return {problem.sequences, static_cast<size_t>(problem.num_sequences)};
}

struct NamedFeature {
  tessera_feature bit;
  const char* name;
};
constexpr NamedFeature kFeatures[] = {
    {TESSERA_FEATURE_GQA, "gqa"},
    {TESSERA_FEATURE_UNEQUAL_HEAD_DIM, "unequal_head_dim"},
    {TESSERA_FEATURE_CAUSAL, "causal"},
    {TESSERA_FEATURE_WINDOW, "window"},
    {TESSERA_FEATURE_SOFTCAP, "softcap"},
    {TESSERA_FEATURE_ALIBI, "alibi"},
    {TESSERA_FEATURE_SINKS, "sinks"},
    {TESSERA_FEATURE_BOOLEAN_MASK, "boolean_mask"},
    {TESSERA_FEATURE_ADDITIVE_MASK, "additive_mask"},
    {TESSERA_FEATURE_LSE, "lse"},
    {TESSERA_FEATURE_OUTPUT_DTYPE, "output_dtype"},
};

// Sum over i in [0, count) of clamp(i + shift, 0, most), for count, most >= 0.
Int128 SumOfClamped(int64_t count, Int128 shift, int64_t most) {
  const Int128 first_positive = std::clamp<Int128>(-shift, 0, count);  // below: the term is 0
  const Int128 first_full =
      std::clamp<Int128>(Int128{most} - shift, 0, count);  // from here on: the term is `most`
  const Int128 rising = first_full - first_positive;
  const Int128 rising_sum = rising * (first_positive + first_full - 1 + 2 * shift) / 2;
  return rising_sum + (count - first_full) * most;
}

// Keys that the window shows, summed over all queries of one head.
int64_t VisibleScores(const Sequence& s) {
  if (s.q_len <= 0 || s.kv_len <= 0) return 0;
  // Query i sees [begin, end) with begin = clamp(i + offset - left, 0, kv_len), end = clamp(i + offset +
  // right + 1, ...).
  const Int128 ends = s.window_right < 0
                          ? Int128{s.q_len} * s.kv_len
                          : SumOfClamped(s.q_len, Int128{s.diagonal_offset} + s.window_right + 1, s.kv_len);
  const Int128 begins =
      s.window_left < 0 ? 0 : SumOfClamped(s.q_len, Int128{s.diagonal_offset} - s.window_left, s.kv_len);
  return SaturateToInt64(ends - begins);
}

}  // namespace

uint32_t FeaturesOf(const AttentionProblem& problem) {
  uint32_t features = 0;
  const auto add = [&features](bool used, tessera_feature bit) {
    if (used) features |= static_cast<uint32_t>(bit);
  };
  add(problem.num_q_heads != problem.num_kv_heads, TESSERA_FEATURE_GQA);
  add(problem.head_dim_qk != problem.head_dim_v, TESSERA_FEATURE_UNEQUAL_HEAD_DIM);
  add(problem.softcap != 0, TESSERA_FEATURE_SOFTCAP);
  add(problem.alibi_slopes != nullptr, TESSERA_FEATURE_ALIBI);
  add(problem.sinks != nullptr, TESSERA_FEATURE_SINKS);
  add(problem.mask_kind == TESSERA_MASK_BOOLEAN, TESSERA_FEATURE_BOOLEAN_MASK);
  add(problem.mask_kind == TESSERA_MASK_ADDITIVE, TESSERA_FEATURE_ADDITIVE_MASK);
  add(WantsLse(problem), TESSERA_FEATURE_LSE);
  add(problem.o.dtype != problem.q.dtype, TESSERA_FEATURE_OUTPUT_DTYPE);
  for (const Sequence& sequence : SequencesOf(problem)) {
    add(sequence.window_right == 0, TESSERA_FEATURE_CAUSAL);
    add(sequence.window_left >= 0 || sequence.window_right > 0, TESSERA_FEATURE_WINDOW);
  }
  return features;
}

std::string FeatureNames(uint32_t features) {
  std::string names;
  for (const NamedFeature& feature : kFeatures) {
    if ((features & static_cast<uint32_t>(feature.bit)) == 0) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", feature.name);
  }
  return names.empty() ? "none" : names;
}

LaunchKey LaunchKeyOf(const AttentionProblem& problem) {
  const auto per_head = [&problem](const float* values) {
    return values == nullptr ? std::vector<float>()
                             : std::vector<float>(values, values + problem.num_q_heads);
  };
  return {
      .input_dtype = problem.q.dtype,
      .output_dtype = problem.o.dtype,
      .mask_dtype = problem.mask_dtype,
      .mask_kind = problem.mask_kind,
      .num_q_heads = problem.num_q_heads,
      .num_kv_heads = problem.num_kv_heads,
      .head_dim_qk = problem.head_dim_qk,
      .head_dim_v = problem.head_dim_v,
      .scale = problem.scale,
      .softcap = problem.softcap,
      .features = FeaturesOf(problem),
      .strides = {problem.q.token_stride, problem.q.head_stride, problem.k.token_stride,
                  problem.k.head_stride, problem.v.token_stride, problem.v.head_stride,
                  problem.o.token_stride, problem.o.head_stride, problem.lse.token_stride,
                  problem.lse.head_stride},
      .alibi_slopes = per_head(problem.alibi_slopes),
      .sinks = per_head(problem.sinks),
  };
}

ProblemSize SizeOf(const AttentionProblem& problem) {
  ProblemSize size{};
  const int64_t heads = std::max(problem.num_q_heads, 0);
  for (const Sequence& s : SequencesOf(problem)) {
    const int64_t q_len = std::max<int64_t>(s.q_len, 0);
    const int64_t kv_len = std::max<int64_t>(s.kv_len, 0);
    size.q_tokens = SaturatingAdd(size.q_tokens, q_len);
    size.kv_tokens = SaturatingAdd(size.kv_tokens, kv_len);
    size.scores = SaturatingAdd(size.scores, SaturatingProduct(q_len, kv_len, heads));
    size.visible_scores = SaturatingAdd(size.visible_scores, SaturatingMultiply(VisibleScores(s), heads));
  }
  const int64_t dims = std::max<int64_t>(int64_t{problem.head_dim_qk} + problem.head_dim_v, 0);
  size.flops = SaturatingProduct(size.visible_scores, dims, int64_t{2});
  return size;
}

KeyRange VisibleKeys(const Sequence& sequence, int64_t i) {
  const Int128 most = std::max<int64_t>(sequence.kv_len, 0);
  const Int128 diagonal = Int128{i} + sequence.diagonal_offset;
  const Int128 begin =
      sequence.window_left < 0 ? 0 : std::clamp<Int128>(diagonal - sequence.window_left, 0, most);
  const Int128 end =
      sequence.window_right < 0 ? most : std::clamp<Int128>(diagonal + sequence.window_right + 1, 0, most);
  return {static_cast<int64_t>(begin), static_cast<int64_t>(end)};
}

}  // namespace tessera
