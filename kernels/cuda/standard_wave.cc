#include "kernels/cuda/standard_wave.h"

#include <algorithm>

#include "kernels/cuda/element_bytes.h"

namespace tessera::kernels::cuda {
namespace {

// Small sequences share launches up to these many bytes of scores: enough to fill a GPU several times over.
constexpr int64_t kWaveBytes = int64_t{64} << 20;
constexpr int64_t kStrideMultiple = 8;  // of score rows: sectors of 32 bytes
// What NVIDIA recommends on Hopper, and what will do where every operand is small.
constexpr int64_t kCublasBytes = int64_t{32} << 20, kSmallCublasBytes = int64_t{4} << 20;
constexpr int64_t kSmallScoreBytes = int64_t{16} << 20;
constexpr int64_t kFp32Bytes = 4;
// The second product of fp32 adds up a chunk of keys at a time, and those sums: cuBLAS sums in one chain,
// whose error grows with the root of its length (beyond 1e-6 at 4096 keys, 4e-7 at 512). Chunks cost
// launches.
constexpr int32_t kChunkKeys = 512, kMaxChunks = 16;
constexpr int32_t kChunkMultiple = 8;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

size_t Index(StandardPart part) { return static_cast<size_t>(part); }

// Sum of clamp(i + shift, 0, limit) over i in [0, n).
Int128 SumClamped(int64_t n, int64_t shift, int64_t limit) {
  const int64_t positive = std::clamp(-shift, int64_t{0}, n);   // the first i with i + shift >= 0
  const int64_t full = std::clamp(limit - shift, positive, n);  // with i + shift >= limit
  const Int128 rising = full - positive;
  return rising * (Int128{positive} + full - 1 + 2 * Int128{shift}) / 2 + Int128{n - full} * limit;
}

// The tensor whose rows begin `elements` further on.
WaveTensor Behind(WaveTensor tensor, int64_t elements) {
  if (elements == 0) return tensor;  // in a dry run there is no data to be behind of
  tensor.data = static_cast<std::byte*>(tensor.data) + elements * ElementBytes(tensor.dtype);
  return tensor;
}

}  // namespace

StandardWave::StandardWave(const tessera_attention_problem& problem, int64_t first)
    : p_(problem),
      first_(first),
      sequence_(problem.sequences[first]),
      lengths_{static_cast<int32_t>(sequence_.q_len), static_cast<int32_t>(sequence_.kv_len)} {
  while (first_ + count_ < p_.num_sequences && Continues(first_ + count_)) {
    const tessera_sequence& next = p_.sequences[first_ + count_];
    q_step_ = next.q_begin - p_.sequences[first_ + count_ - 1].q_begin;
    kv_step_ = next.kv_begin - p_.sequences[first_ + count_ - 1].kv_begin;
    ++count_;
  }
  const bool k_fits = IsGemmMatrix(lengths_.kv_len, p_.head_dim_qk, p_.k.token_stride);
  const bool v_fits = IsGemmMatrix(lengths_.kv_len, p_.head_dim_v, p_.v.token_stride);
  const bool q_fits = IsGemmMatrix(lengths_.q_len, p_.head_dim_qk, p_.q.token_stride);
  const bool converts = operand_dtype() != p_.q.dtype;
  packs_q_ = has_keys() && (converts || !q_fits);
  packs_k_ = has_keys() && (converts || !k_fits);
  packs_v_ = has_keys() && (converts || !v_fits);
  hides_keys_ = has_keys() && (p_.mask_kind != TESSERA_MASK_NONE || WindowHides());
  const bool o_fits =
      p_.o.dtype == TESSERA_DTYPE_FP32 && IsGemmMatrix(lengths_.q_len, p_.head_dim_v, p_.o.token_stride);
  stores_values_ = has_keys() && (scales_values() || !o_fits);
}

bool StandardWave::Continues(int64_t next) const {
  const tessera_sequence& s = p_.sequences[next];
  const tessera_sequence& last = p_.sequences[next - 1];
  const int64_t q_step = s.q_begin - last.q_begin, kv_step = s.kv_begin - last.kv_begin;
  return s.q_len == sequence_.q_len && s.kv_len == sequence_.kv_len &&
         s.diagonal_offset == sequence_.diagonal_offset && s.window_left == sequence_.window_left &&
         s.window_right == sequence_.window_right && q_step >= 0 && kv_step >= 0 &&
         (count_ == 1 || (q_step == q_step_ && kv_step == kv_step_)) &&
         Int128{num_scores()} / count_ * (count_ + 1) * kFp32Bytes <= kWaveBytes;
}

bool StandardWave::WindowHides() const {
  const tessera_sequence& s = sequence_;
  return (s.window_right >= 0 && s.diagonal_offset + s.window_right < s.kv_len - 1) ||
         (s.window_left >= 0 && s.q_len - 1 + s.diagonal_offset - s.window_left > 0);
}

tessera_attention_problem StandardWave::Problem() const {
  tessera_attention_problem problem = p_;
  problem.sequences = p_.sequences + first_;
  problem.num_sequences = count_;
  problem.q_scales = ScalesFrom(p_.q_scales);
  problem.k_scales = ScalesFrom(p_.k_scales);
  problem.v_scales = ScalesFrom(p_.v_scales);
  return problem;
}

tessera_scales StandardWave::ScalesFrom(const tessera_scales& scales) const {
  tessera_scales moved = scales;
  if (moved.data != nullptr) moved.data += first_ * moved.sequence_stride;
  return moved;
}

int64_t StandardWave::score_stride() const { return RoundUp(lengths_.kv_len, kStrideMultiple); }

int64_t StandardWave::num_scores() const { return count_ * p_.num_q_heads * lengths_.q_len * score_stride(); }

Int128 StandardWave::VisibleScores() const {
  const tessera_sequence& s = sequence_;
  const Int128 ends = s.window_right < 0
                          ? Int128{s.q_len} * s.kv_len
                          : SumClamped(s.q_len, s.diagonal_offset + s.window_right + 1, s.kv_len);
  const Int128 begins =
      s.window_left < 0 ? 0 : SumClamped(s.q_len, s.diagonal_offset - s.window_left, s.kv_len);
  return (ends - begins) * p_.num_q_heads * count_;
}

PartBytes StandardWave::Parts() const {
  const Int128 q_rows = Int128{count_} * p_.num_q_heads * lengths_.q_len;
  const Int128 kv_rows = Int128{count_} * p_.num_kv_heads * lengths_.kv_len;
  const int64_t element = ElementBytes(operand_dtype());
  const Int128 scores = has_keys() ? Int128{num_scores()} * kFp32Bytes : 0;
  PartBytes bytes{};
  if (has_keys())
    bytes[Index(StandardPart::kCublas)] = scores < kSmallScoreBytes ? kSmallCublasBytes : kCublasBytes;
  bytes[Index(StandardPart::kTables)] = TableBytes(Problem());
  bytes[Index(StandardPart::kScores)] = scores;
  if (packs_q()) bytes[Index(StandardPart::kPackedQ)] = q_rows * p_.head_dim_qk * element;
  if (packs_k()) bytes[Index(StandardPart::kPackedK)] = kv_rows * p_.head_dim_qk * element;
  if (packs_v()) bytes[Index(StandardPart::kPackedV)] = kv_rows * p_.head_dim_v * element;
  if (hides_keys()) bytes[Index(StandardPart::kNonFinite)] = kNonFiniteFlagBytes + kv_rows;
  if (stores_values()) bytes[Index(StandardPart::kValues)] = q_rows * p_.head_dim_v * kFp32Bytes;
  if (scales_values()) bytes[Index(StandardPart::kRowScales)] = q_rows * kFp32Bytes;
  return bytes;
}

int64_t StandardWave::Launches() const {
  if (!has_keys()) return 2;  // the softmax, for the LSE, and zeros
  const int64_t copies = packs_q() + packs_k() + packs_v() + hides_keys() + stores_values();
  return copies + CountCalls(ScoreProduct({})) + 1 + num_chunks() * CountCalls(ValueProduct({}, 0));
}

WaveTraffic StandardWave::Traffic(int64_t l2_bytes) const {
  const PartBytes parts = Parts();
  const auto part = [&](StandardPart name) { return parts[Index(name)]; };
  const int64_t element = ElementBytes(p_.q.dtype), weight = ElementBytes(operand_dtype());
  const Int128 q_rows = Int128{count_} * p_.num_q_heads * lengths_.q_len;
  const Int128 kv_rows = Int128{count_} * p_.num_kv_heads * lengths_.kv_len;

  WaveTraffic traffic{};
  traffic.write = q_rows * p_.head_dim_v * ElementBytes(p_.o.dtype);
  if (p_.lse.data != nullptr || p_.lse.num_elements != 0) traffic.write += q_rows * kFp32Bytes;
  if (!has_keys()) return traffic;
  traffic.read = q_rows * p_.head_dim_qk * element + kv_rows * (p_.head_dim_qk + p_.head_dim_v) * element;
  if (p_.mask_kind != TESSERA_MASK_NONE) {
    const int64_t heads = sequence_.mask_head_stride == 0 ? 1 : p_.num_q_heads;
    const int64_t rows = sequence_.mask_q_stride == 0 ? 1 : lengths_.q_len;
    const int64_t keys = sequence_.mask_kv_stride == 0 ? 1 : lengths_.kv_len;
    traffic.read += Int128{count_} * heads * rows * keys * ElementBytes(p_.mask_dtype);
  }
  // Copies are written and read.
  for (StandardPart copy : {StandardPart::kPackedQ, StandardPart::kPackedK, StandardPart::kPackedV}) {
    traffic.read += part(copy);
    traffic.write += part(copy);
  }
  // What fills no more than half of the L2 is taken to stay there from one launch to the next: the scores,
  if (part(StandardPart::kScores) > l2_bytes / 2) {
    const Int128 weights = Int128{num_scores()} * weight;
    traffic.write += part(StandardPart::kScores) + weights + part(StandardPart::kRowScales);
    traffic.read += VisibleScores() * kFp32Bytes + weights + part(StandardPart::kRowScales);
  }
  // and the sums of a chunk of keys beside its weights, until the next chunk or the copy to O takes them up.
  const Int128 sums = q_rows * p_.head_dim_v * kFp32Bytes;
  if (sums + q_rows * chunk_keys() * weight > l2_bytes / 2) {
    const int64_t times = num_chunks() - 1 + stores_values();
    traffic.write += times * sums;
    traffic.read += times * sums;
  }
  return traffic;
}

WaveTensor StandardWave::View(const tessera_tensor& tensor, int64_t begin, int64_t step) const {
  // A dry run has no data to point into.
  void* const data = tensor.data == nullptr ? nullptr
                                            : static_cast<std::byte*>(tensor.data) +
                                                  begin * tensor.token_stride * ElementBytes(tensor.dtype);
  return {data, step * tensor.token_stride, tensor.head_stride, tensor.token_stride, tensor.dtype};
}

WaveTensor StandardWave::Packed(void* data, tessera_dtype dtype, int64_t heads, int64_t tokens,
                                int64_t dim) const {
  return {data, heads * tokens * dim, tokens * dim, dim, dtype};
}

WaveTensor StandardWave::Query() const { return View(p_.q, sequence_.q_begin, q_step_); }
WaveTensor StandardWave::Key() const { return View(p_.k, sequence_.kv_begin, kv_step_); }
WaveTensor StandardWave::Value() const { return View(p_.v, sequence_.kv_begin, kv_step_); }

WaveTensor StandardWave::PackedQuery(const PartPointers& parts) const {
  return Packed(parts[Index(StandardPart::kPackedQ)], operand_dtype(), p_.num_q_heads, lengths_.q_len,
                p_.head_dim_qk);
}
WaveTensor StandardWave::PackedKey(const PartPointers& parts) const {
  return Packed(parts[Index(StandardPart::kPackedK)], operand_dtype(), p_.num_kv_heads, lengths_.kv_len,
                p_.head_dim_qk);
}
WaveTensor StandardWave::PackedValue(const PartPointers& parts) const {
  return Packed(parts[Index(StandardPart::kPackedV)], operand_dtype(), p_.num_kv_heads, lengths_.kv_len,
                p_.head_dim_v);
}

int32_t StandardWave::chunk_keys() const {
  const int32_t keys = lengths_.kv_len;
  if (p_.q.dtype != TESSERA_DTYPE_FP32) return keys;  // tensor cores add several products at once
  const int32_t chunks = std::clamp((keys + kChunkKeys - 1) / kChunkKeys, 1, kMaxChunks);
  return static_cast<int32_t>(RoundUp((keys + chunks - 1) / chunks, kChunkMultiple));
}

int32_t StandardWave::num_chunks() const { return (lengths_.kv_len + chunk_keys() - 1) / chunk_keys(); }

WaveProduct StandardWave::ScoreProduct(const PartPointers& parts) const {
  return {.sequences = count_,
          .num_kv_heads = p_.num_kv_heads,
          .group = p_.num_q_heads / p_.num_kv_heads,
          .rows = lengths_.q_len,
          .columns = lengths_.kv_len,
          .depth = p_.head_dim_qk,
          .transpose_b = true,
          .accumulate = false,
          .a = packs_q() ? PackedQuery(parts) : Query(),
          .b = packs_k() ? PackedKey(parts) : Key(),
          .c = Packed(parts[Index(StandardPart::kScores)], TESSERA_DTYPE_FP32, p_.num_q_heads, lengths_.q_len,
                      score_stride())};
}

WaveProduct StandardWave::ValueProduct(const PartPointers& parts, int32_t chunk) const {
  // Weights lie where their scores did, at the start of each row.
  const int64_t weight_stride = score_stride() * kFp32Bytes / ElementBytes(operand_dtype());
  const WaveTensor weights = Packed(parts[Index(StandardPart::kScores)], operand_dtype(), p_.num_q_heads,
                                    lengths_.q_len, weight_stride);
  const WaveTensor values = packs_v() ? PackedValue(parts) : Value();
  const int32_t first_key = chunk * chunk_keys();
  return {.sequences = count_,
          .num_kv_heads = p_.num_kv_heads,
          .group = p_.num_q_heads / p_.num_kv_heads,
          .rows = lengths_.q_len,
          .columns = p_.head_dim_v,
          .depth = std::min(chunk_keys(), lengths_.kv_len - first_key),
          .transpose_b = false,
          .accumulate = chunk > 0,
          .a = Behind(weights, first_key),
          .b = Behind(values, first_key * values.row_stride),
          .c = stores_values() ? Packed(parts[Index(StandardPart::kValues)], TESSERA_DTYPE_FP32,
                                        p_.num_q_heads, lengths_.q_len, p_.head_dim_v)
                               : View(p_.o, sequence_.q_begin, q_step_)};
}

}  // namespace tessera::kernels::cuda
