#include "kernels/cuda/device_problem.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda/element_bytes.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int64_t kVectorBytes = 16;
// Products of 256 fp8 elements stay finite as logits, to base 2 too, with scales up to this.
constexpr double kLargestLogitScale = 1e30;
// Pageable memory up to this size is staged by the driver at once, without waiting for the stream.
constexpr size_t kStagedBytes = size_t{64} << 10;

int32_t ClampPosition(int64_t position) {
  return static_cast<int32_t>(std::clamp(position, -kMaxPosition, kMaxPosition));
}

bool IsVectorised(const tessera_tensor& tensor, int64_t head_dim) {
  const int64_t element = ElementBytes(tensor.dtype);
  const auto aligned = [&](int64_t elements) { return elements * element % kVectorBytes == 0; };
  return reinterpret_cast<uintptr_t>(tensor.data) % kVectorBytes == 0 && aligned(head_dim) &&
         aligned(tensor.token_stride) && aligned(tensor.head_stride);
}

DeviceTensor View(const tessera_tensor& tensor, int64_t head_dim) {
  return {tensor.data, tensor.token_stride, tensor.head_stride, tensor.dtype, IsVectorised(tensor, head_dim)};
}

DeviceSequence View(const tessera_sequence& s, int64_t number) {
  DeviceSequence view{};
  view.number = static_cast<int32_t>(number);
  view.q_begin = s.q_begin;
  view.kv_begin = s.kv_begin;
  view.mask = s.mask;
  view.mask_head_stride = s.mask_head_stride;
  view.mask_q_stride = s.mask_q_stride;
  view.mask_kv_stride = s.mask_kv_stride;
  view.q_len = static_cast<int32_t>(s.q_len);
  view.kv_len = static_cast<int32_t>(s.kv_len);
  view.diagonal = ClampPosition(s.diagonal_offset);
  // Lengths are below kMaxPosition: a shift that is clamped shows, or hides, every key as the true one does.
  view.first_shift = s.window_left < 0 ? static_cast<int32_t>(-kMaxPosition)
                                       : ClampPosition(s.diagonal_offset - s.window_left);
  view.last_shift = s.window_right < 0 ? static_cast<int32_t>(kMaxPosition)
                                       : ClampPosition(s.diagonal_offset + s.window_right);
  return view;
}

// Keys that the first or the last query of `s` sees, whichever sees more: what sequences are ordered by.
int64_t LongestWalk(const DeviceSequence& s) {
  const auto keys = [&s](int64_t query) {
    const int64_t first = std::max<int64_t>(query + s.first_shift, 0);
    const int64_t end = std::min<int64_t>(query + s.last_shift + 1, s.kv_len);
    return end - first;
  };
  return std::max(keys(0), keys(int64_t{s.q_len} - 1));
}

// Pairs of a run that are walked together: the row heads of as many kv heads as `l2_bytes` hold keys and
// values of, and at least one. Row heads that share a kv head stay together. `kv_len`: of the run's longest
// sequence.
int64_t GroupPairs(const tessera_attention_problem& p, const RowTiling& tiling, int64_t l2_bytes,
                   int64_t run_length, int64_t kv_len) {
  if (l2_bytes <= 0) return 1;
  const int64_t row_heads = tiling.RowHeads(p);
  const int64_t sharing = row_heads / p.num_kv_heads;
  const int64_t head_bytes = kv_len * (int64_t{p.head_dim_qk} + p.head_dim_v) * ElementBytes(p.k.dtype);
  const int64_t kv_heads = run_length * p.num_kv_heads;
  const int64_t fit = std::clamp<int64_t>(head_bytes == 0 ? kv_heads : l2_bytes / head_bytes, 1, kv_heads);
  // Evenly, so that the last group is not a small one whose longest tiles would end the launch.
  const int64_t groups = (kv_heads + fit - 1) / fit;
  return (kv_heads + groups - 1) / groups * sharing;
}

// Cuts the sorted sequences into runs. Returns the tiles of one row head.
int64_t SetRuns(const tessera_attention_problem& p, const RowTiling& tiling, int64_t l2_bytes,
                std::vector<DeviceSequence>& sequences) {
  int64_t first_tile = 0;
  for (size_t begin = 0, end = 0; begin < sequences.size(); begin = end) {
    const int64_t tiles = tiling.Tiles(sequences[begin].q_len);
    int32_t kv_len = 0;
    for (; end < sequences.size() && tiling.Tiles(sequences[end].q_len) == tiles; ++end) {
      kv_len = std::max(kv_len, sequences[end].kv_len);
    }
    const auto length = static_cast<int64_t>(end - begin);
    // A run without tiles is never looked up, and its pairs may be more than int32 counts.
    const int64_t group_pairs = tiles == 0 ? 1 : GroupPairs(p, tiling, l2_bytes, length, kv_len);
    for (size_t n = begin; n < end; ++n) {
      sequences[n].first_tile = static_cast<int32_t>(first_tile);
      sequences[n].run_begin = static_cast<int32_t>(begin);
      sequences[n].run_length = static_cast<int32_t>(length);
      sequences[n].group_pairs = static_cast<int32_t>(group_pairs);
    }
    first_tile += tiles * length;
  }
  return first_tile;
}

std::vector<DeviceSequence> SortedSequences(const tessera_attention_problem& p) {
  std::vector<DeviceSequence> sequences;
  sequences.reserve(static_cast<size_t>(p.num_sequences));
  for (int64_t n = 0; n < p.num_sequences; ++n) sequences.push_back(View(p.sequences[n], n));
  std::stable_sort(sequences.begin(), sequences.end(), [](const DeviceSequence& a, const DeviceSequence& b) {
    return LongestWalk(a) > LongestWalk(b);
  });
  return sequences;
}

cudaError_t CopyTables(const std::vector<std::byte>& tables, void* workspace, cudaStream_t stream) {
  for (size_t begin = 0; begin < tables.size(); begin += kStagedBytes) {
    const size_t bytes = std::min(kStagedBytes, tables.size() - begin);
    const cudaError_t error = cudaMemcpyAsync(static_cast<std::byte*>(workspace) + begin,
                                              tables.data() + begin, bytes, cudaMemcpyHostToDevice, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

bool HasScales(const tessera_attention_problem& p) { return p.q.dtype == TESSERA_DTYPE_FP8_E4M3; }

double ScaleOf(const tessera_scales& scales, int64_t sequence, int64_t head) {
  if (scales.data == nullptr) return 1;
  return scales.data[sequence * scales.sequence_stride + head * scales.head_stride];
}

// The tables logit_scales() and value_scales() show.
std::vector<float> ScaleTables(const tessera_attention_problem& p) {
  std::vector<float> tables;
  tables.reserve(static_cast<size_t>(p.num_sequences) *
                 (static_cast<size_t>(p.num_q_heads) + static_cast<size_t>(p.num_kv_heads)));
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int64_t head = 0; head < p.num_q_heads; ++head) {
      // Double takes the product of any three floats. One that is too small for a normal number would make
      // 0 * inf of a hidden score.
      const double scale =
          double{p.scale} * ScaleOf(p.q_scales, n, head) * ScaleOf(p.k_scales, n, head / group);
      const double size =
          std::clamp<double>(std::abs(scale), std::numeric_limits<float>::min(), kLargestLogitScale);
      tables.push_back(scale == 0 ? 0.0f : static_cast<float>(std::copysign(size, scale)));
    }
  }
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    for (int64_t head = 0; head < p.num_kv_heads; ++head) {
      tables.push_back(static_cast<float>(ScaleOf(p.v_scales, n, head)));
    }
  }
  return tables;
}

int64_t PackedTableBytes(const tessera_attention_problem& p) {
  const int64_t of_heads =
      (p.alibi_slopes != nullptr ? p.num_q_heads : 0) + (p.sinks != nullptr ? p.num_q_heads : 0);
  const int64_t of_sequence = HasScales(p) ? int64_t{p.num_q_heads} + p.num_kv_heads : 0;
  const int64_t floats = of_heads + p.num_sequences * of_sequence;
  return p.num_sequences * static_cast<int64_t>(sizeof(DeviceSequence)) +
         floats * static_cast<int64_t>(sizeof(float));
}

std::string OfSequence(const char* what, int64_t n) { return what + (" of sequence " + std::to_string(n)); }

}  // namespace

int MaskAlignment(const tessera_attention_problem& p, bool with_data) {
  if (p.mask_kind == TESSERA_MASK_NONE) return 0;
  uint64_t offsets = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const tessera_sequence& s = p.sequences[n];
    if (s.q_len == 0 || s.kv_len == 0) continue;
    if (s.mask_kv_stride != 1) return 0;
    offsets |= (with_data ? reinterpret_cast<uintptr_t>(s.mask) : 0) |
               static_cast<uint64_t>((s.mask_head_stride | s.mask_q_stride) * ElementBytes(p.mask_dtype));
  }
  for (const int alignment : {16, 8, 4}) {
    if (offsets % static_cast<uint64_t>(alignment) == 0) return alignment;
  }
  return 1;
}

int64_t TableBytes(const tessera_attention_problem& problem) {
  const int64_t bytes = PackedTableBytes(problem);
  return bytes <= DeviceProblem::kInlineBytes ? 0 : bytes;
}

std::string IndexLimit(const tessera_attention_problem& p, const RowTiling& tiling) {
  const auto too_many = [](int64_t actual, const std::string& what, int64_t limit) {
    return std::to_string(actual) + " " + what + ", expected fewer than " + std::to_string(limit);
  };
  const int64_t group = p.num_q_heads / p.num_kv_heads;
  if (group >= kMaxGroup) return too_many(group, "query heads share a kv head", kMaxGroup);
  if (p.num_sequences >= kMaxPosition) return too_many(p.num_sequences, "sequences", kMaxPosition);
  int64_t blocks = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const tessera_sequence& s = p.sequences[n];
    if (s.kv_len >= kMaxPosition) return too_many(s.kv_len, OfSequence("keys", n), kMaxPosition);
    if (s.q_len >= kMaxPosition / group) {
      return too_many(s.q_len, OfSequence("queries", n), kMaxPosition / group);
    }
    if (p.alibi_slopes != nullptr && std::abs(s.diagonal_offset) >= kMaxPosition) {
      return too_many(s.diagonal_offset, OfSequence("as ALiBi's diagonal offset", n), kMaxPosition);
    }
    blocks += tiling.Tiles(s.q_len) * tiling.RowHeads(p);
    if (blocks > INT32_MAX) return too_many(blocks, "blocks of the launch", int64_t{INT32_MAX} + 1);
  }
  return "";
}

std::vector<std::byte> FillDeviceProblem(const tessera_attention_problem& p, const RowTiling& tiling,
                                         int64_t l2_bytes, DeviceProblem* device) {
  device->q = View(p.q, p.head_dim_qk);
  device->k = View(p.k, p.head_dim_qk);
  device->v = View(p.v, p.head_dim_v);
  device->o = View(p.o, p.head_dim_v);
  device->lse = p.lse.data;
  device->lse_token_stride = p.lse.token_stride;
  device->lse_head_stride = p.lse.head_stride;
  device->num_q_heads = p.num_q_heads;
  device->num_kv_heads = p.num_kv_heads;
  device->group = p.num_q_heads / p.num_kv_heads;
  device->head_dim_qk = p.head_dim_qk;
  device->head_dim_v = p.head_dim_v;
  device->scale = p.scale;
  device->softcap = p.softcap;
  device->mask_kind = p.mask_kind;
  device->mask_dtype = p.mask_dtype;
  device->has_alibi = p.alibi_slopes != nullptr;
  device->has_sinks = p.sinks != nullptr;
  device->mask_alignment = static_cast<int8_t>(MaskAlignment(p, /*with_data=*/true));
  device->rows_per_query = tiling.rows_per_query;
  device->tile_rows = tiling.tile_rows;
  device->num_row_heads = static_cast<int32_t>(tiling.RowHeads(p));
  device->num_sequences = static_cast<int32_t>(p.num_sequences);
  std::vector<DeviceSequence> sequences = SortedSequences(p);
  device->num_tiles = static_cast<int32_t>(SetRuns(p, tiling, l2_bytes, sequences));

  device->tables = nullptr;
  std::vector<std::byte> spilled(static_cast<size_t>(TableBytes(p)));
  std::byte* tables = spilled.empty() ? device->inline_tables : spilled.data();
  const auto append = [&tables](const void* data, size_t bytes) {
    if (bytes > 0) std::memcpy(tables, data, bytes);
    tables += bytes;
  };
  const size_t head_bytes = static_cast<size_t>(p.num_q_heads) * sizeof(float);
  append(sequences.data(), sequences.size() * sizeof(DeviceSequence));
  if (device->has_alibi) append(p.alibi_slopes, head_bytes);
  if (device->has_sinks) append(p.sinks, head_bytes);
  if (HasScales(p)) {
    const std::vector<float> scales = ScaleTables(p);
    append(scales.data(), scales.size() * sizeof(float));
  }
  return spilled;
}

cudaError_t MakeDeviceProblem(const tessera_attention_problem& p, const RowTiling& tiling, int64_t l2_bytes,
                              void* workspace, cudaStream_t stream, DeviceProblem* device) {
  const std::vector<std::byte> spilled = FillDeviceProblem(p, tiling, l2_bytes, device);
  if (spilled.empty()) return cudaSuccess;
  device->tables = static_cast<const std::byte*>(workspace);
  return CopyTables(spilled, workspace, stream);
}

}  // namespace tessera::kernels::cuda
