// What happens to a score between Q K^T and the softmax (tessera/attention.h gives the order), for one
// element.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/block_work.cuh"

namespace tessera::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

__device__ inline float NegativeInfinity() { return __int_as_float(0xff800000); }

// The keys that the window shows to a row, both ends visible.
struct RowWindow {
  int32_t first_key, last_key;

  __device__ bool Shows(int32_t key) const { return key >= first_key && key <= last_key; }
};

__device__ inline RowWindow WindowOf(const BlockWork& work, int32_t row) {
  const DeviceSequence& s = work.sequence;
  const int32_t query = work.Query(row);
  return {max(query + s.first_shift, 0), min(query + s.last_shift, s.kv_len - 1)};
}

// What else the logits of a row depend on.
struct RowFeatures {
  int32_t diagonal;  // the key on the row's diagonal
  float slope;       // ALiBi
  const void* mask;  // the row's elements; null: none
  int64_t mask_kv_stride;
};

__device__ inline RowFeatures FeaturesOf(const DeviceProblem& p, const BlockWork& work, int32_t row) {
  const DeviceSequence& s = work.sequence;
  const int32_t query = work.Query(row), head = work.Head(row);
  RowFeatures f;
  f.diagonal = query + s.diagonal;
  f.slope = p.has_alibi ? p.alibi_slopes()[head] : 0.0f;
  f.mask_kv_stride = s.mask_kv_stride;
  f.mask = nullptr;
  if (p.mask_kind != TESSERA_MASK_NONE) {
    const int64_t size = p.mask_dtype == TESSERA_DTYPE_FP32 ? 4 : p.mask_dtype == TESSERA_DTYPE_BOOL ? 1 : 2;
    f.mask =
        static_cast<const std::byte*>(s.mask) + (head * s.mask_head_stride + query * s.mask_q_stride) * size;
  }
  return f;
}

// What the dense mask adds to the logit of `key` (inside the sequence): -inf where a boolean mask hides it.
__device__ inline float MaskValue(const DeviceProblem& p, const RowFeatures& f, int32_t key) {
  const int64_t at = key * f.mask_kv_stride;
  switch (p.mask_dtype) {
    case TESSERA_DTYPE_FP32:
      return __ldg(static_cast<const float*>(f.mask) + at);
    case TESSERA_DTYPE_FP16:
      return __half2float(__ldg(static_cast<const __half*>(f.mask) + at));
    case TESSERA_DTYPE_BF16:
      return __bfloat162float(__ldg(static_cast<const __nv_bfloat16*>(f.mask) + at));
    default:
      return __ldg(static_cast<const uint8_t*>(f.mask) + at) != 0 ? 0.0f : NegativeInfinity();
  }
}

// Whether a key inside the sequence is hidden by the dense mask.
__device__ inline bool IsMasked(const DeviceProblem& p, const RowFeatures& f, int32_t key) {
  return f.mask != nullptr && MaskValue(p, f, key) == NegativeInfinity();
}

__device__ inline float SoftCap(float logit, float softcap) { return softcap * tanhf(logit / softcap); }

__device__ inline float AlibiBias(const RowFeatures& f, int32_t key) {
  return -f.slope * static_cast<float>(abs(f.diagonal - key));
}

// What a row's accumulators come to.
struct RowResult {
  float scale;  // times the unnormalised output: the row of O
  float lse;    // natural logarithm
};

// `row_sum` is the sum of e^(x - reference) over the row's logits x. A row that sees no key (`row_max` -inf)
// is 0, and its LSE that of the sink alone.
__device__ inline RowResult Finish(float row_max, float reference, float row_sum, bool has_sink, float sink) {
  if (row_max == NegativeInfinity() && row_sum == 0.0f) return {0.0f, has_sink ? sink : NegativeInfinity()};
  // row_sum is 2^-22 or more: far from where the fast division and logarithm are coarse.
  if (!has_sink) return {__fdividef(1.0f, row_sum), reference + __logf(row_sum)};
  const float joint = fmaxf(reference, sink);
  const float rescale = expf(reference - joint);
  const float joint_sum = fmaf(row_sum, rescale, expf(sink - joint));
  return {__fdividef(rescale, joint_sum), joint + logf(joint_sum)};
}

}  // namespace tessera::kernels::cuda
