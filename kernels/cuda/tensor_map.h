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

// Whether Q, K and V, or O, can be mapped: elements of 8 or 16 bits, 16-byte aligned rows, strides of 16
// bytes to 1 TiB, tokens that int32 counts. The head dims may be odd, and tensors without tokens lie
// anywhere.
bool CanMapInputs(const tessera_attention_problem& problem);
bool CanMapOutput(const tessera_attention_problem& problem);

// The functions below fill *map for what can be mapped. They return the driver's error, one that says that
// there is no driver, or cudaErrorInvalidValue for what cannot be mapped. Thread-safe.
//
// A map holds the tokens up to the end of the furthest sequence: a box that reaches past the end of its
// sequence reads tokens of others, and of none. Such a box is to be masked, and not to be stored.

// Row tiles. Coordinates {dim, head of the row head, token, row head}. A box is tiling.tile_rows rows, a
// multiple of rows_per_query: of each of its tokens, the heads of the row head. All zeros, and not to be
// used, for a problem without queries.
cudaError_t MapQuery(const tessera_attention_problem& problem, const RowTiling& tiling, CUtensorMap* map);
cudaError_t MapOutput(const tessera_attention_problem& problem, const RowTiling& tiling, CUtensorMap* map);

// Key tiles. Coordinates {dim, token, kv head}. A box is `tile_kv` tokens, at most 256. For a problem without
// keys the map may be read too: it shows some element of Q, and zeros.
cudaError_t MapKey(const tessera_attention_problem& problem, int32_t tile_kv, CUtensorMap* map);
cudaError_t MapValue(const tessera_attention_problem& problem, int32_t tile_kv, CUtensorMap* map);

}  // namespace tessera::kernels::cuda
