// The description of the work: Validate() is the one place that accepts or refuses it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "backend/core/dtype.h"
#include "tessera/attention.h"
#include "tessera/backend.h"

namespace tessera {

using AttentionProblem = tessera_attention_problem;
using Sequence = tessera_sequence;
using TensorView = tessera_tensor;

// Largest value of any length, head count times dim, or stride: keeps every product used later inside int64.
inline constexpr int64_t kMaxExtent = int64_t{1} << 40;

// Whether tensors of the problem must have memory behind them. A dry run (Explain) has shapes only.
enum class DataRequirement { kRequired, kShapesOnly };

// Accepts the problem, or says what is wrong with it: INVALID_ARGUMENT (OUT_OF_RANGE, reason
// SEQUENCE_OUT_OF_RANGE, for a sequence that reaches past its tensor), with reason, field, expected and
// actual values. Overflow-safe for any field values; O(n log n) in the sequences. After OK
//   - every address that tessera/attention.h forms for q, k, v, o and lse lies inside its tensor, and every
//     product of a length, begin or head index with its stride fits int64, as do the token totals;
//   - no two (token, head) rows of o, or of lse, share an element, so rows can be written in any order.
// What the struct does not tell cannot be checked here: that pointers and extents are true, that masks are as
// large as their strides and lengths imply (whoever fills the struct checks that; the server's codec does),
// and that o and lse do not alias the inputs.
absl::Status Validate(const AttentionProblem& problem, DataRequirement data = DataRequirement::kRequired);

// Union of tessera_feature bits that the problem uses.
uint32_t FeaturesOf(const AttentionProblem& problem);

// "causal, softcap" for a set of bits; "none" for 0.
std::string FeatureNames(uint32_t features);

// Whether the log-sum-exp is asked for: it has memory, or (in a dry run) an extent.
inline bool WantsLse(const AttentionProblem& problem) {
  return problem.lse.data != nullptr || problem.lse.num_elements != 0;
}

// What the elements of (sequence, head) of an fp8 tensor are multiplied by.
inline float ScaleOf(const tessera_scales& scales, int64_t sequence, int64_t head) {
  return scales.data == nullptr ? 1.0f
                                : scales.data[sequence * scales.sequence_stride + head * scales.head_stride];
}

// What must be equal for two problems to share one launch; compares and hashes with absl::Hash. Of a valid
// problem.
struct LaunchKey {
  DType input_dtype, output_dtype, mask_dtype;
  tessera_mask_kind mask_kind;
  int32_t num_q_heads, num_kv_heads, head_dim_qk, head_dim_v;
  float scale, softcap;
  uint32_t features;
  // Strides, in elements: q, k, v, o, lse, (token, head) each.
  std::array<int64_t, 10> strides;
  // The values themselves: one launch has one slope and one sink per query head. Empty: none.
  std::vector<float> alibi_slopes, sinks;

  friend bool operator==(const LaunchKey&, const LaunchKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const LaunchKey& k) {
    return H::combine(std::move(h), k.input_dtype, k.output_dtype, k.mask_dtype, k.mask_kind, k.num_q_heads,
                      k.num_kv_heads, k.head_dim_qk, k.head_dim_v, k.scale, k.softcap, k.features, k.strides,
                      k.alibi_slopes, k.sinks);
  }
};

LaunchKey LaunchKeyOf(const AttentionProblem& problem);

// Totals over the batch, used by limits, models and logs. Saturate at INT64_MAX, and are defined for problems
// that Validate() would refuse (negative lengths count as 0), so that limits can be checked in any order.
struct ProblemSize {
  int64_t q_tokens;        // sum of q_len
  int64_t kv_tokens;       // sum of kv_len
  int64_t scores;          // sum of q_len * kv_len * num_q_heads: what materialising the scores would hold
  int64_t visible_scores;  // of those, inside the causal or sliding window (dense masks not counted)
  int64_t flops;           // 2 * visible_scores * (head_dim_qk + head_dim_v)
};
ProblemSize SizeOf(const AttentionProblem& problem);

// The keys in [0, kv_len) that `sequence`'s causal or sliding window shows to query i: [begin, end), begin <=
// end.
struct KeyRange {
  int64_t begin, end;
};
KeyRange VisibleKeys(const Sequence& sequence, int64_t i);

}  // namespace tessera
