#include "kernels/cuda/tensor_map.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/cuda/element_bytes.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int64_t kStrideBytes = 16;  // strides and the base are multiples of this
constexpr int64_t kEndOfStrides = int64_t{1} << 40;
constexpr int32_t kMaxBox = 256;
constexpr unsigned kTensorMapVersion = 12000;  // the CUDA version that brought tensor maps

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

struct Driver {
  cudaError_t error;
  EncodeTiled encode;
};

Driver FindDriver() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             kTensorMapVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess) return {error, nullptr};
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    return {cudaErrorCallRequiresNewerDriver, nullptr};
  }
  return {cudaSuccess, reinterpret_cast<EncodeTiled>(function)};
}

// Sequences end at different tokens, but a map has one extent. It is the furthest end, so that every element
// of the map lies in the tensor: the strides are not negative, hence none is further than the last element of
// the last head of the last token of the sequence that ends there, which the problem itself addresses. This
// holds for any layout, one in which begins are counted in the token stride of a (batch, head, token, dim)
// tensor included: there the rows of the map overlap, head h of token t being head 0 of a later token.
template <class End>
int64_t FurthestEnd(const tessera_attention_problem& p, End end) {
  int64_t furthest = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) furthest = std::max(furthest, end(p.sequences[n]));
  return furthest;
}

int64_t QueryTokens(const tessera_attention_problem& p) {
  return FurthestEnd(p, [](const tessera_sequence& s) { return s.q_len > 0 ? s.q_begin + s.q_len : 0; });
}

int64_t KeyTokens(const tessera_attention_problem& p) {
  return FurthestEnd(p, [](const tessera_sequence& s) { return s.kv_len > 0 ? s.kv_begin + s.kv_len : 0; });
}

// A tensor, and how much of it the sequences reach.
struct Extent {
  const tessera_tensor& tensor;
  int64_t tokens;
  int32_t heads, head_dim;
};

Extent QueryOf(const tessera_attention_problem& p) {
  return {p.q, QueryTokens(p), p.num_q_heads, p.head_dim_qk};
}
Extent OutputOf(const tessera_attention_problem& p) {
  return {p.o, QueryTokens(p), p.num_q_heads, p.head_dim_v};
}
Extent KeyOf(const tessera_attention_problem& p) {
  return {p.k, KeyTokens(p), p.num_kv_heads, p.head_dim_qk};
}
Extent ValueOf(const tessera_attention_problem& p) {
  return {p.v, KeyTokens(p), p.num_kv_heads, p.head_dim_v};
}

// Whether a dimension can have this stride. One of 0, which repeats the same row, is no use to TMA.
bool IsStride(int64_t extent, int64_t stride, int64_t element) {
  if (extent <= 1) return true;
  return stride > 0 && stride < kEndOfStrides / element && stride * element % kStrideBytes == 0;
}

bool CanMap(const Extent& extent) {
  const tessera_tensor& tensor = extent.tensor;
  const int64_t element = ElementBytes(tensor.dtype);
  if (element > 2) return false;
  if (extent.tokens == 0) return true;
  // The last dimension of row tiles has a stride of several heads.
  const bool heads_fit = extent.heads == 1 || tensor.head_stride < kEndOfStrides / element / extent.heads;
  return reinterpret_cast<uintptr_t>(tensor.data) % kStrideBytes == 0 &&
         extent.tokens <= std::numeric_limits<int32_t>::max() &&
         IsStride(extent.tokens, tensor.token_stride, element) &&
         IsStride(extent.heads, tensor.head_stride, element) && heads_fit;
}

// One of the dimensions behind `dim`.
struct Dimension {
  int64_t extent;
  int64_t stride;  // elements; of no account for an extent of 1
  int32_t box;
};

template <size_t kCount>
cudaError_t Encode(const tessera_tensor& tensor, int32_t head_dim,
                   const std::array<Dimension, kCount>& dimensions, CUtensorMap* map) {
  static const Driver driver = FindDriver();
  if (driver.error != cudaSuccess) return driver.error;
  const int64_t element = ElementBytes(tensor.dtype);
  const int64_t row_bytes = head_dim * element;
  cuuint64_t extents[kCount + 1] = {static_cast<cuuint64_t>(head_dim)};
  cuuint64_t strides[kCount];
  cuuint32_t box[kCount + 1] = {static_cast<cuuint32_t>(kBoxBytes / element)};
  cuuint32_t steps[kCount + 1] = {1};
  for (size_t i = 0; i < kCount; ++i) {
    const Dimension& dimension = dimensions[i];
    if (dimension.box < 1 || dimension.box > kMaxBox) return cudaErrorInvalidValue;
    const int64_t any_stride = (row_bytes + kStrideBytes - 1) / kStrideBytes * kStrideBytes;
    extents[i + 1] = static_cast<cuuint64_t>(dimension.extent);
    strides[i] = static_cast<cuuint64_t>(dimension.extent == 1 ? any_stride : dimension.stride * element);
    box[i + 1] = static_cast<cuuint32_t>(dimension.box);
    steps[i + 1] = 1;
  }
  // Copies move bits, whatever they mean.
  const auto type = element == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16;
  // Where rows are shorter, 256 bytes would fetch from the next head, or the next token, too.
  const auto promotion =
      row_bytes % 256 == 0 ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  const CUresult result = driver.encode(map, type, kCount + 1, tensor.data, extents, strides, box, steps,
                                        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
                                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return static_cast<cudaError_t>(result);  // the runtime's errors have the driver's numbers
}

cudaError_t MapRows(const Extent& extent, const RowTiling& tiling, CUtensorMap* map) {
  *map = {};
  if (!CanMap(extent)) return cudaErrorInvalidValue;
  if (extent.tokens == 0) return cudaSuccess;
  const tessera_tensor& tensor = extent.tensor;
  const int32_t heads = tiling.rows_per_query;
  return Encode<3>(tensor, extent.head_dim,
                   {Dimension{heads, tensor.head_stride, heads},
                    Dimension{extent.tokens, tensor.token_stride, tiling.tile_rows / heads},
                    Dimension{extent.heads / heads, heads * tensor.head_stride, 1}},
                   map);
}

cudaError_t MapTokens(const Extent& extent, int32_t tile_kv, CUtensorMap* map) {
  *map = {};
  if (!CanMap(extent)) return cudaErrorInvalidValue;
  if (extent.tokens == 0) return cudaSuccess;
  return Encode<2>(extent.tensor, extent.head_dim,
                   {Dimension{extent.tokens, extent.tensor.token_stride, tile_kv},
                    Dimension{extent.heads, extent.tensor.head_stride, 1}},
                   map);
}

// K and V without tokens may have no memory behind them.
Extent AnyElement(const Extent& query) { return {query.tensor, query.tokens > 0 ? 1 : 0, 1, 1}; }

cudaError_t MapKeys(const tessera_attention_problem& p, const Extent& extent, int32_t tile_kv,
                    CUtensorMap* map) {
  return MapTokens(extent.tokens > 0 ? extent : AnyElement(QueryOf(p)), tile_kv, map);
}

}  // namespace

bool CanMapInputs(const tessera_attention_problem& p) {
  return CanMap(QueryOf(p)) && CanMap(KeyOf(p)) && CanMap(ValueOf(p));
}
bool CanMapOutput(const tessera_attention_problem& p) { return CanMap(OutputOf(p)); }

cudaError_t MapQuery(const tessera_attention_problem& p, const RowTiling& tiling, CUtensorMap* map) {
  return MapRows(QueryOf(p), tiling, map);
}
cudaError_t MapOutput(const tessera_attention_problem& p, const RowTiling& tiling, CUtensorMap* map) {
  return MapRows(OutputOf(p), tiling, map);
}
cudaError_t MapKey(const tessera_attention_problem& p, int32_t tile_kv, CUtensorMap* map) {
  return MapKeys(p, KeyOf(p), tile_kv, map);
}
cudaError_t MapValue(const tessera_attention_problem& p, int32_t tile_kv, CUtensorMap* map) {
  return MapKeys(p, ValueOf(p), tile_kv, map);
}

}  // namespace tessera::kernels::cuda
