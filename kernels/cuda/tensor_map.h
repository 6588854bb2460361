// Tensor maps: how the copy engine (TMA) of compute capability 9.0 sees the tensors (token, head, dim) of a
// problem. A box is 128 bytes of a row, the lines that SWIZZLE_128B permutes; what lies outside the tensor
// reads as zeros and is not written. Columns past the head dim are outside, so that padding costs no traffic.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/row_tiling.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda {

// Bytes of a row in a box.
inline constexpr int32_t kBoxBytes = 128;

// The part of a tensor that the sequences of a problem reach. Up to `tokens` there may be tokens of no
// sequence, and a box that reaches past the end of its sequence reads those, and those of other sequences:
// they are to be masked, and such a box is not to be stored.
struct MappedShape {
  int64_t tokens;
  int32_t heads, head_dim;
};
MappedShape QueryShape(const tessera_attention_problem& problem);
MappedShape KeyShape(const tessera_attention_problem& problem);
MappedShape ValueShape(const tessera_attention_problem& problem);
MappedShape OutputShape(const tessera_attention_problem& problem);

// Whether the functions below can map `tensor`: elements of 8 or 16 bits, 16-byte aligned rows, strides of
// 16 bytes to 1 TiB, tokens that int32 counts. The head dim may be odd. A tensor without tokens always can.
bool CanMap(const tessera_tensor& tensor, const MappedShape& shape);

// The functions below fill *map for a tensor that CanMap(). They return the driver's error, one that says
// that there is no driver, or cudaErrorInvalidValue for what cannot be mapped. The map of a tensor without
// tokens is all zeros, and no copy may use it. Thread-safe.

// Row tiles of Q or O. Coordinates {dim, head of the row head, token, row head}; a box has tiling.tile_rows
// rows, which is a multiple of rows_per_query: rows_per_query heads of each of its tokens.
cudaError_t MapRows(const tessera_tensor& tensor, const MappedShape& shape, const RowTiling& tiling,
                    CUtensorMap* map);

// Key tiles of K or V. Coordinates {dim, token, kv head}; a box has `tile_kv` tokens, at most 256.
cudaError_t MapKeys(const tessera_tensor& tensor, const MappedShape& shape, int32_t tile_kv,
                    CUtensorMap* map);

}  // namespace tessera::kernels::cuda
