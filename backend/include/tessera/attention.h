/* The one description of an attention problem: a plain C struct that the server fills, Validate() checks,
 * and every backend (shipped or plugin) and every CPU kernel reads.
 *
 * What is computed, for each sequence, query head h, query i and visible key j (kv head g = h / (Hq / Hkv)):
 *
 *   x[j]  = scale * dot(q[i,h], k[j,g])                 (q, k and v: an fp8 element times its tessera_scales)
 *   x[j]  = softcap > 0 ? softcap * tanh(x[j] / softcap) : x[j]
 *   x[j] += alibi_slopes ? -alibi_slopes[h] * |i + diagonal_offset - j| : 0
 *   x[j] += additive mask value, if there is one
 *   o[i,h] = sum_j exp(x[j]) * v[j,g] / (sum_j exp(x[j]) + (sinks ? exp(sinks[h]) : 0))
 *   lse[i,h] = log(sum_j exp(x[j]) + (sinks ? exp(sinks[h]) : 0))
 *
 * Key j is visible to query i when all of these hold:
 *   0 <= j < kv_len;
 *   window_left  < 0 or j >= i + diagonal_offset - window_left;
 *   window_right < 0 or j <= i + diagonal_offset + window_right     (causal attention: window_right = 0);
 *   the boolean mask, if any, is non-zero there; the additive mask, if any, is not -inf there.
 * A key that is not visible contributes nothing, even if its K or V holds NaN or Inf.
 * A row with no visible key has o = 0 and lse = -inf (with a sink: o = 0 and lse = the sink).
 *
 * Inputs are read as given, sums are accumulated in fp32 or better, o is rounded once to its dtype.
 * The structs own nothing. Versioning: see TESSERA_ABI_VERSION in tessera/backend.h.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TESSERA_ENUM(name) enum name : int32_t
extern "C" {
#else
#define TESSERA_ENUM(name) \
  typedef int32_t name;    \
  enum
#endif
/* clang-format off */
/* Element types. Q, K and V share one of FP32, FP16, BF16, FP8_E4M3; the output dtype is its own choice. */
TESSERA_ENUM(tessera_dtype){
    TESSERA_DTYPE_INVALID = 0,
    TESSERA_DTYPE_FP32 = 1,
    TESSERA_DTYPE_FP16 = 2,
    TESSERA_DTYPE_BF16 = 3,
    TESSERA_DTYPE_FP8_E4M3 = 4, /* finite only: 0x7f and 0xff are NaN, 0x7e is 448; inputs only */
    TESSERA_DTYPE_BOOL = 5, /* one byte, 0 or not 0; masks only */
};

TESSERA_ENUM(tessera_mask_kind){
    TESSERA_MASK_NONE = 0,
    TESSERA_MASK_BOOLEAN = 1,  /* mask_dtype BOOL; non-zero means "attend" */
    TESSERA_MASK_ADDITIVE = 2, /* mask_dtype FP32, FP16 or BF16; added to the logits; -inf hides the key */
};
/* clang-format on */
/* A non-owning view of a tensor of shape (token, head, dim) in device memory.
 * Element (t, h, d) lies at data[t * token_stride + h * head_stride + d]; the dim stride is 1.
 * num_elements is the extent of the memory behind data, from the first element: all addressed elements lie
 * in [0, num_elements). data is aligned to the element size at least. Strides are in elements, and >= 0. */
typedef struct tessera_tensor {
  void* data;
  int64_t num_elements;
  int64_t token_stride;
  int64_t head_stride;
  tessera_dtype dtype;
} tessera_tensor;

/* One sequence of the batch. Query token i of the sequence is token q_begin + i of q, o and lse; key j is
 * token kv_begin + j of k and v. A begin is counted in that tensor's token_stride: for a padded (batch, head,
 * token, dim) tensor token_stride = dim and the begin of batch entry b is b * heads * tokens. */
typedef struct tessera_sequence {
  int64_t q_begin;
  int64_t q_len; /* >= 0 */
  int64_t kv_begin;
  int64_t kv_len; /* >= 0 */
  /* Key position that lies on query 0's diagonal: kv_len - q_len aligns bottom-right, 0 aligns top-left. */
  int64_t diagonal_offset;
  int64_t window_left;  /* keys left of the diagonal that stay visible; negative: all */
  int64_t window_right; /* keys right of the diagonal that stay visible; negative: all; 0: causal */
  /* Mask element (h, i, j) lies at mask[h * mask_head_stride + i * mask_q_stride + j * mask_kv_stride];
   * strides in elements, 0 broadcasts. Device memory; NULL when the problem's mask_kind is NONE. */
  const void* mask;
  int64_t mask_head_stride;
  int64_t mask_q_stride;
  int64_t mask_kv_stride;
} tessera_sequence;

/* Log-sum-exp output, natural logarithm, fp32; (t, h) at data[t * token_stride + h * head_stride].
 * data is NULL and num_elements 0 when it is not wanted. */
typedef struct tessera_lse {
  float* data;
  int64_t num_elements;
  int64_t token_stride;
  int64_t head_stride;
} tessera_lse;

/* What the elements of an fp8 tensor are multiplied by: those of sequence n and head h by
 * data[n * sequence_stride + h * head_stride]. Host memory; strides in elements, >= 0, 0 broadcasts; each
 * scale finite and > 0. data NULL: all are 1. Other dtypes have none. */
typedef struct tessera_scales {
  const float* data;
  int64_t sequence_stride;
  int64_t head_stride;
} tessera_scales;

typedef struct tessera_attention_problem {
  uint32_t struct_size; /* sizeof(tessera_attention_problem) of whoever filled it */

  int32_t num_q_heads;  /* Hq, a multiple of num_kv_heads */
  int32_t num_kv_heads; /* Hkv */
  int32_t head_dim_qk;
  int32_t head_dim_v;

  float scale;   /* finite */
  float softcap; /* 0: off; else > 0 and finite */

  tessera_tensor q; /* (total_q, Hq, head_dim_qk) */
  tessera_tensor k; /* (total_kv, Hkv, head_dim_qk) */
  tessera_tensor v; /* (total_kv, Hkv, head_dim_v), dtype of k */
  tessera_tensor o; /* (total_q, Hq, head_dim_v); rows of no sequence are left as they are */
  tessera_lse lse;  /* (total_q, Hq) */

  tessera_mask_kind mask_kind;
  tessera_dtype mask_dtype;  /* INVALID when mask_kind is NONE */
  const float* alibi_slopes; /* (Hq), host memory, or NULL */
  const float* sinks;        /* (Hq), host memory, or NULL; each finite or -inf */

  const tessera_sequence* sequences; /* (num_sequences), host memory */
  int64_t num_sequences;

  tessera_scales q_scales; /* (num_sequences, Hq); data NULL unless q, k and v are FP8_E4M3 */
  tessera_scales k_scales; /* (num_sequences, Hkv) */
  tessera_scales v_scales; /* (num_sequences, Hkv) */
} tessera_attention_problem;

#ifdef __cplusplus
} /* extern "C" */
#endif
