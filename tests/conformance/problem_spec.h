// A random attention problem in words: what a test states, and BuildProblem() turns into tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tessera/attention.h"

namespace tessera::testing {

struct Lengths {
  int64_t q, kv;
};

enum class Layout {
  kPacked,  // (token, head, dim), two unused tokens around each sequence
  kGapped,  // likewise, with unused elements between heads and tokens: no row is aligned
  kBshd,    // (batch, token, head, dim), padded to the longest sequence
  kBhsd,    // (batch, head, token, dim), padded likewise
  // As kPacked, with the strides of slices of one tensor (token, head of Q, K or V, dim): tokens are apart,
  // and as aligned as the head dim is. So is o.
  kFusedQkv,
  kPaddedRows,  // as kPacked, each row padded to a multiple of 16 bytes
};

// Where query 0 stands against the keys.
enum class Alignment { kBottomRight, kTopLeft };

struct WindowSpec {
  int64_t left = -1, right = -1;  // as in tessera_sequence; right 0 is causal
  Alignment alignment = Alignment::kBottomRight;
  int64_t shift = 0;  // added to the diagonal offset
};

struct MaskSpec {
  tessera_mask_kind kind = TESSERA_MASK_NONE;
  tessera_dtype dtype = TESSERA_DTYPE_INVALID;
  // A dimension that the mask does not have is broadcast, by a stride of 0.
  bool per_head = true, per_query = true, per_key = true;
  // An additive mask hides by the lowest finite value, as Hugging Face's do, and not by -inf: a row of
  // nothing else then sees all its keys alike.
  bool hides_by_lowest = false;
  // Rows begin at multiples of this many bytes, and not all at multiples of more. 0: they have no gaps.
  int64_t row_alignment = 0;
};

// Unit-normal, but for:
enum class Values {
  kUnitNormal,
  kHugeLogits,       // Q times 100
  kTinyLogits,       // Q times 1e-4
  kNanInHiddenKeys,  // K NaN and V Inf in every key that no query sees; some are hidden by any mask
  kNanInKey,         // one NaN in K, in the middle key of each sequence
  kNanInValue,       // one NaN in V, likewise
  kInfInValue,       // one +Inf in V, likewise
  kInfInQuery,       // one +Inf in Q, in the middle query of each sequence
};

// Which scales fp8 inputs have; each value that is not broadcast is drawn by itself.
enum class Scales {
  kOfSequenceAndHead,
  kOfHead,  // one for each head, whatever the sequence
  kOne,     // one for the whole tensor
  kNone,    // none: all are 1
};

struct ProblemSpec {
  std::string name;
  tessera_dtype dtype = TESSERA_DTYPE_FP32;
  tessera_dtype output_dtype = TESSERA_DTYPE_INVALID;  // INVALID: as dtype, bf16 for fp8
  int32_t num_q_heads = 2, num_kv_heads = 2;
  int32_t head_dim_qk = 64, head_dim_v = 64;
  std::vector<Lengths> sequences = {{.q = 33, .kv = 70}};
  bool shared_kv = false;  // all sequences read the same keys (lengths may differ)
  Layout layout = Layout::kPacked;
  WindowSpec window;
  float scale_factor = 1;  // times 1 / sqrt(head_dim_qk)
  float softcap = 0;
  bool alibi = false;
  bool sinks = false;
  MaskSpec mask;
  bool lse = true;
  Values values = Values::kUnitNormal;
  Scales scales = Scales::kOfSequenceAndHead;  // of fp8 inputs
  // Runs, of which all must come to the same bits. Between the runs after the second, others go through the
  // same memory whose Q, K and V are all NaN, or all huge.
  int runs = 2;

  tessera_dtype OutputDType() const {
    if (output_dtype != TESSERA_DTYPE_INVALID) return output_dtype;
    return dtype == TESSERA_DTYPE_FP8_E4M3 ? TESSERA_DTYPE_BF16 : dtype;
  }
};

}  // namespace tessera::testing
