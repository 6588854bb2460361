// What standard attention runs around its two matrix products. Each launch serves a wave: sequences of one
// q_len, kv_len and window, in the problem's order, with all their heads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda {

// Sequences have fewer keys: the row stride of 16-bit weights is an int32.
inline constexpr int64_t kStandardMaxKeys = int64_t{1} << 29;

// The softmax of rows of `num_keys` scores.
struct SoftmaxKernel {
  const char* name;  // as a profiler shows it
  const void* function;
  int32_t threads;  // of a block, which takes one row
};
SoftmaxKernel ChooseSoftmax(int32_t num_keys);

// Of each sequence of the wave.
struct WaveLengths {
  int32_t q_len, kv_len;
};

// Scores of the wave in memory: row (sequence, query head, query) at scores + row * row_stride, where
// row_stride is a multiple of 8 and the buffer is aligned to 32 bytes.
struct ScoreRows {
  float* scores;
  int64_t row_stride;
  tessera_dtype weights_dtype;  // of the weights, as the second product reads them
  float* row_scales;            // one to a row, for 16-bit weights; null: rows without keys have no weights
};

// From S = Q K^T, not scaled, fp8 by its codes, to weights w, hidden keys 0; each row of them lies at the
// start of its row of S, 2 * row_stride elements from the next where it has 16 bits. Writes the LSE where it
// is wanted. fp32: w = P = softmax(logits). 16 bits: w = c exp(logit - largest logit), c a power of two, so
// that the largest weight is not rounded, and P = w * row_scale, where row_scale is 1 / (sum of the rounded w
// + what the sink adds): the errors of a row's weights partly cancel. A row that sees no key has scale 0.
cudaError_t LaunchSoftmax(const DeviceProblem& wave, const WaveLengths& lengths, const ScoreRows& rows,
                          cudaStream_t stream);

// A tensor of the wave: row (sequence, head, token) lies sequence * sequence_stride + head * head_stride +
// token * row_stride elements behind data.
struct WaveTensor {
  void* data;
  int64_t sequence_stride, head_stride, row_stride;
  tessera_dtype dtype;
};

// Which rows of V, in the order of a packed V, hold a NaN or an infinity.
struct NonFiniteRows {
  int32_t* any;   // 1 when there is one
  uint8_t* rows;  // (sequences, heads, tokens)
};

// Copies (sequences, heads, tokens) rows of `dim` elements of `from` to `to`, of the same dtype, or fp8 to
// bf16. With `non_finite`: puts 0 for every NaN and infinity, and fills it; *any is 0 before.
struct PackedRows {
  WaveTensor from, to;
  int32_t sequences, heads, tokens, dim;
  NonFiniteRows non_finite;  // null: as they are
};
cudaError_t LaunchPack(const PackedRows& rows, int32_t multiprocessors, cudaStream_t stream);

// fp32 (sequence, query head, query, head_dim_v), contiguous.
struct ValueRows {
  const float* values;      // null: zeros
  const float* row_scales;  // what each row is multiplied by; null: 1
};
// O = the values, times the scales of V where it has any, rounded to O's dtype.
cudaError_t LaunchStore(const DeviceProblem& wave, const WaveLengths& lengths, const ValueRows& rows,
                        int32_t multiprocessors, cudaStream_t stream);

// Adds to each row of O the NaNs and infinities of V in the rows that it sees, which a packed V is without.
cudaError_t LaunchRestoreNonFinite(const DeviceProblem& wave, const WaveLengths& lengths,
                                   const NonFiniteRows& non_finite, int32_t multiprocessors,
                                   cudaStream_t stream);

}  // namespace tessera::kernels::cuda
