// The matrix products of standard attention as cuBLAS takes them: one product for each (sequence, query head)
// of a wave, put into as few strided batches as the strides allow.
#pragma once

#include <cstdint>

#include "kernels/cuda/cublas.h"
#include "kernels/cuda/standard_kernels.h"

namespace tessera::kernels::cuda {

// Whether cuBLAS takes rows of `row_length` elements as they lie: they must not overlap (a stride of 0
// broadcasts), and the stride is an int32.
bool IsGemmMatrix(int64_t num_rows, int64_t row_length, int64_t row_stride);

// c (rows, columns) = a (rows, depth) * op(b) for each sequence and query head; op and `accumulate` as in
// StridedGemm. a and c have the query heads, b the kv heads. Every matrix IsGemmMatrix; extents are positive.
struct WaveProduct {
  int64_t sequences;
  int32_t num_kv_heads, group;
  int32_t rows, columns, depth;
  bool transpose_b, accumulate;
  WaveTensor a, b, c;
};

// Calls that QueueProduct makes.
int64_t CountCalls(const WaveProduct& product);
// False when cuBLAS refuses one.
bool QueueProduct(const WaveProduct& product, Cublas::Calls& calls);

}  // namespace tessera::kernels::cuda
