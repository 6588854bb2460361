// The copies around the products of standard attention: operands that cuBLAS cannot take as they lie, V
// without its NaNs and infinities, and outputs that are scaled or cast, or that cuBLAS cannot write where
// they lie. A warp takes a row.
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/standard_kernels.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int kWarpSize = 32;
constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;
constexpr uint32_t kAllLanes = 0xffffffff;

// The rows of a warp: from first, every stride-th.
__device__ int64_t FirstRow() { return (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize; }
__device__ int64_t RowStride() { return int64_t{gridDim.x} * kThreads / kWarpSize; }
__device__ int32_t Lane() { return static_cast<int32_t>(threadIdx.x % kWarpSize); }

// Row `index` of (sequences, heads, tokens).
struct RowPlace {
  int64_t sequence;
  int32_t head, token;
};
__device__ RowPlace PlaceOf(int64_t index, int32_t heads, int32_t tokens) {
  const int64_t head = index / tokens;
  return {head / heads, static_cast<int32_t>(head % heads), static_cast<int32_t>(index % tokens)};
}

__device__ float E4M3ToFloat(uint8_t code) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
}

__device__ float LoadElement(const void* data, tessera_dtype dtype, int64_t index) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      return __half2float(static_cast<const __half*>(data)[index]);
    case TESSERA_DTYPE_BF16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
    case TESSERA_DTYPE_FP8_E4M3:
      return E4M3ToFloat(static_cast<const uint8_t*>(data)[index]);
    default:
      return static_cast<const float*>(data)[index];
  }
}

__device__ void StoreElement(void* data, tessera_dtype dtype, int64_t index, float value) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      static_cast<__half*>(data)[index] = __float2half_rn(value);
      break;
    case TESSERA_DTYPE_BF16:
      static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
      break;
    default:
      static_cast<float*>(data)[index] = value;
  }
}

// How a packed element comes from one of the tensor: as the same bits,
template <typename Unsigned>
struct SameBits {
  using From = Unsigned;
  using To = Unsigned;
  To exponent_mask;

  __device__ To operator()(From bits) const { return bits; }
};
// or as the bf16 of the fp8 number.
struct E4M3ToBf16 {
  using From = uint8_t;
  using To = uint16_t;
  To exponent_mask;

  __device__ To operator()(From code) const {
    return __bfloat16_as_ushort(__float2bfloat16_rn(E4M3ToFloat(code)));
  }
};

// Of a packed NaN or infinity all of convert.exponent_mask is set.
template <class Convert>
__device__ void PackRows(const PackedRows& p, Convert convert) {
  using From = typename Convert::From;
  using To = typename Convert::To;
  const int64_t num_rows = int64_t{p.sequences} * p.heads * p.tokens;
  for (int64_t row = FirstRow(); row < num_rows; row += RowStride()) {
    const RowPlace at = PlaceOf(row, p.heads, p.tokens);
    const auto offset = [&](const WaveTensor& t) {
      return at.sequence * t.sequence_stride + at.head * t.head_stride + at.token * t.row_stride;
    };
    const From* const from = static_cast<const From*>(p.from.data) + offset(p.from);
    To* const to = static_cast<To*>(p.to.data) + offset(p.to);
    bool found = false;
    for (int32_t d = Lane(); d < p.dim; d += kWarpSize) {
      To bits = convert(from[d]);
      if (p.non_finite.rows != nullptr && (bits & convert.exponent_mask) == convert.exponent_mask) {
        found = true;
        bits = 0;
      }
      to[d] = bits;
    }
    if (p.non_finite.rows == nullptr) continue;
    found = __any_sync(kAllLanes, found);
    if (Lane() != 0) continue;
    p.non_finite.rows[row] = found ? 1 : 0;
    if (found) *p.non_finite.any = 1;  // every writer writes the same
  }
}

// What the values of a row of O are multiplied by.
__device__ float ValueScale(const DeviceProblem& p, const RowPlace& at) {
  if (p.v.dtype != TESSERA_DTYPE_FP8_E4M3) return 1;
  return p.value_scales(p.sequences()[at.sequence])[at.head / p.group];
}

__device__ int64_t OutputOffset(const DeviceProblem& p, const RowPlace& at) {
  return (p.sequences()[at.sequence].q_begin + at.token) * p.o.token_stride + at.head * p.o.head_stride;
}

// Adds what is not finite in one row of V to a row of O.
__device__ void AddNonFinite(const DeviceProblem& p, int64_t output, int64_t value) {
  for (int32_t d = Lane(); d < p.head_dim_v; d += kWarpSize) {
    const float v = LoadElement(p.v.data, p.v.dtype, value + d);
    if (isfinite(v)) continue;
    StoreElement(p.o.data, p.o.dtype, output + d, LoadElement(p.o.data, p.o.dtype, output + d) + v);
  }
}

}  // namespace

extern "C" {

__global__ void __launch_bounds__(kThreads) tessera_standard_pack(const PackedRows rows) {
  switch (rows.from.dtype) {
    case TESSERA_DTYPE_FP16:
      return PackRows(rows, SameBits<uint16_t>{0x7c00});
    case TESSERA_DTYPE_BF16:
      return PackRows(rows, SameBits<uint16_t>{0x7f80});
    case TESSERA_DTYPE_FP8_E4M3:
      return PackRows(rows, E4M3ToBf16{0x7f80});
    default:
      return PackRows(rows, SameBits<uint32_t>{0x7f800000});
  }
}

__global__ void __launch_bounds__(kThreads)
    tessera_standard_store(const __grid_constant__ DeviceProblem p, const WaveLengths lengths,
                           const ValueRows rows) {
  const int64_t num_rows = int64_t{p.num_sequences} * p.num_q_heads * lengths.q_len;
  for (int64_t row = FirstRow(); row < num_rows; row += RowStride()) {
    const RowPlace at = PlaceOf(row, p.num_q_heads, lengths.q_len);
    const int64_t output = OutputOffset(p, at);
    const float row_scale = rows.row_scales != nullptr ? rows.row_scales[row] : 1.0f;
    const float value_scale = ValueScale(p, at);
    for (int32_t d = Lane(); d < p.head_dim_v; d += kWarpSize) {
      const float value =
          rows.values != nullptr ? rows.values[row * p.head_dim_v + d] * row_scale * value_scale : 0.0f;
      StoreElement(p.o.data, p.o.dtype, output + d, value);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    tessera_standard_restore_nonfinite(const __grid_constant__ DeviceProblem p, const WaveLengths lengths,
                                       const NonFiniteRows non_finite) {
  if (*non_finite.any == 0) return;
  const int64_t num_rows = int64_t{p.num_sequences} * p.num_q_heads * lengths.q_len;
  for (int64_t row = FirstRow(); row < num_rows; row += RowStride()) {
    const RowPlace at = PlaceOf(row, p.num_q_heads, lengths.q_len);
    const DeviceSequence& sequence = p.sequences()[at.sequence];
    const int32_t kv_head = at.head / p.group;
    const BlockWork work(sequence, /*rows_per_query=*/1, at.head, kv_head, at.token);
    const RowWindow window = WindowOf(work, at.token);
    const RowFeatures features = FeaturesOf(p, work, at.token);
    const uint8_t* const marks = non_finite.rows + (at.sequence * p.num_kv_heads + kv_head) * lengths.kv_len;
    const int64_t output = OutputOffset(p, at);
    for (int32_t first = window.first_key; first <= window.last_key; first += kWarpSize) {
      const int32_t key = first + Lane();
      const bool adds = key <= window.last_key && marks[key] != 0 && !IsMasked(p, features, key);
      for (uint32_t left = __ballot_sync(kAllLanes, adds); left != 0; left &= left - 1) {
        const int32_t found = first + __ffs(static_cast<int>(left)) - 1;
        AddNonFinite(p, output, (sequence.kv_begin + found) * p.v.token_stride + kv_head * p.v.head_stride);
      }
    }
  }
}

}  // extern "C"

namespace {

dim3 GridFor(int64_t num_rows, int32_t multiprocessors) {
  constexpr int64_t kWarps = kThreads / kWarpSize;
  const int64_t most = int64_t{multiprocessors} * kBlocksPerMultiprocessor;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>((num_rows + kWarps - 1) / kWarps, 1, most)));
}

int64_t NumRows(const DeviceProblem& wave, const WaveLengths& lengths) {
  return int64_t{wave.num_sequences} * wave.num_q_heads * lengths.q_len;
}

}  // namespace

cudaError_t LaunchPack(const PackedRows& rows, int32_t multiprocessors, cudaStream_t stream) {
  const dim3 grid = GridFor(int64_t{rows.sequences} * rows.heads * rows.tokens, multiprocessors);
  tessera_standard_pack<<<grid, kThreads, 0, stream>>>(rows);
  return cudaGetLastError();
}

cudaError_t LaunchStore(const DeviceProblem& wave, const WaveLengths& lengths, const ValueRows& rows,
                        int32_t multiprocessors, cudaStream_t stream) {
  const dim3 grid = GridFor(NumRows(wave, lengths), multiprocessors);
  tessera_standard_store<<<grid, kThreads, 0, stream>>>(wave, lengths, rows);
  return cudaGetLastError();
}

cudaError_t LaunchRestoreNonFinite(const DeviceProblem& wave, const WaveLengths& lengths,
                                   const NonFiniteRows& non_finite, int32_t multiprocessors,
                                   cudaStream_t stream) {
  const dim3 grid = GridFor(NumRows(wave, lengths), multiprocessors);
  tessera_standard_restore_nonfinite<<<grid, kThreads, 0, stream>>>(wave, lengths, non_finite);
  return cudaGetLastError();
}

}  // namespace tessera::kernels::cuda
