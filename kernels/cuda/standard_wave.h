// What standard attention does for one wave of sequences, and what that takes: shapes only, shared by the
// plan and the run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/standard_kernels.h"
#include "kernels/cuda/standard_product.h"
#include "tessera/attention.h"

namespace tessera::kernels::cuda {

__extension__ typedef __int128 Int128;  // byte counts of shapes that no memory holds

// Parts of the workspace.
enum class StandardPart {
  kCublas,
  kTables,
  kScores,
  kPackedQ,
  kPackedK,
  kPackedV,
  kNonFinite,
  kValues,
  kRowScales
};
inline constexpr size_t kStandardParts = 9;
using PartBytes = std::array<Int128, kStandardParts>;
// The flag of NonFiniteRows, and what aligns the marks behind it.
inline constexpr int64_t kNonFiniteFlagBytes = 256;

// Device traffic of a wave, in bytes.
struct WaveTraffic {
  Int128 read, write;
};

// Sequences [first, first + count) of the problem: of one length, diagonal and window, with their tensors
// evenly apart. They have queries.
class StandardWave {
 public:
  // The wave that begins with sequence `first`: as many sequences as small scores allow, one at least.
  StandardWave(const tessera_attention_problem& problem, int64_t first);

  // The wave's part of the problem, scales included.
  tessera_attention_problem Problem() const;
  int64_t count() const { return count_; }
  const WaveLengths& lengths() const { return lengths_; }

  bool has_keys() const { return lengths_.kv_len > 0; }
  // The dtype that the products read: of fp8 inputs, whose elements it holds exactly, bf16.
  tessera_dtype operand_dtype() const {
    return p_.q.dtype == TESSERA_DTYPE_FP8_E4M3 ? TESSERA_DTYPE_BF16 : p_.q.dtype;
  }
  // Operands that are copied first, since cuBLAS cannot take them as they lie, or in their dtype.
  bool packs_q() const { return packs_q_; }
  bool packs_k() const { return packs_k_; }
  // V is also copied where a row may not see all keys: hidden ones then have finite values, which a weight of
  // 0 hides.
  bool packs_v() const { return has_keys() && (packs_v_ || hides_keys_); }
  bool hides_keys() const { return hides_keys_; }
  // Whether the second product goes to fp32 values in the workspace, and a copy from there to O: 16-bit
  // weights are not normalised before, and cuBLAS cannot write every O.
  bool stores_values() const { return stores_values_; }
  bool scales_values() const { return has_keys() && p_.q.dtype != TESSERA_DTYPE_FP32; }
  int64_t num_scores() const;
  int64_t score_stride() const;  // from row to row, in scores

  PartBytes Parts() const;
  int64_t Launches() const;
  WaveTraffic Traffic(int64_t l2_bytes) const;

  // The tensors of the wave, `parts` being where each part of the workspace lies (null in a dry run).
  using PartPointers = std::array<void*, kStandardParts>;
  WaveTensor Query() const;
  WaveTensor Key() const;
  WaveTensor Value() const;
  WaveTensor PackedQuery(const PartPointers& parts) const;
  WaveTensor PackedKey(const PartPointers& parts) const;
  WaveTensor PackedValue(const PartPointers& parts) const;
  // S = Q K^T, and O = P V in as many products as there are chunks of keys.
  WaveProduct ScoreProduct(const PartPointers& parts) const;
  int32_t num_chunks() const;  // has_keys()
  WaveProduct ValueProduct(const PartPointers& parts, int32_t chunk) const;

 private:
  bool Continues(int64_t next) const;  // whether the sequence `next` lies where the wave would go on
  bool WindowHides() const;
  int32_t chunk_keys() const;  // of each chunk but the last; 0 where there are no keys
  Int128 VisibleScores() const;
  WaveTensor View(const tessera_tensor& tensor, int64_t begin, int64_t step) const;
  WaveTensor Packed(void* data, tessera_dtype dtype, int64_t heads, int64_t tokens, int64_t dim) const;
  tessera_scales ScalesFrom(const tessera_scales& scales) const;  // those of sequence first_ and on

  const tessera_attention_problem& p_;
  const int64_t first_;
  const tessera_sequence& sequence_;  // the first
  const WaveLengths lengths_;
  int64_t count_ = 1;
  int64_t q_step_ = 0, kv_step_ = 0;  // from one sequence's begin to the next's
  bool packs_q_, packs_k_, packs_v_, hides_keys_, stores_values_;
};

// Calls body(wave) for each wave of the problem, in order, while it returns true.
template <typename Body>
void ForEachWave(const tessera_attention_problem& problem, Body body) {
  for (int64_t n = 0; n < problem.num_sequences;) {
    if (problem.sequences[n].q_len == 0) {
      ++n;
      continue;
    }
    const StandardWave wave(problem, n);
    if (!body(wave)) return;
    n += wave.count();
  }
}

}  // namespace tessera::kernels::cuda
