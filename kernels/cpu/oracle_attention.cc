// The oracle: tessera/attention.h step by step in float64, with the score matrix in memory.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kernels/cpu/element_access.h"
#include "kernels/cpu/multiply_tile.h"
#include "kernels/cpu/row_blocks.h"
#include "kernels/cpu/standard_attention.h"
#include "kernels/cpu/visibility.h"

namespace tessera::kernels::cpu {
namespace {

using namespace standard;  // NOLINT(google-build-using-namespace): this file is written in its terms

constexpr int64_t kBlockRows = 96;
constexpr int64_t kChunkKeys = 64;   // keys of V held in float64 at a time
constexpr int64_t kMaskChunk = 256;  // mask values decoded at a time
constexpr BlockShape kShape{
    .rows = kBlockRows, .stride_multiple = kTileColumns, .small_pair_elements = int64_t{1} << 22};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One worker's float64 copies of the operands of the block at hand.
struct Scratch {
  double* q;       // (kBlockRows, head_dim_qk), scaled
  double* key;     // (head_dim_qk)
  double* panel;   // K transposed: (head_dim_qk, kTileColumns); then V: (kChunkKeys, padded head_dim_v)
  double* output;  // (kBlockRows, padded head_dim_v)
};

// How many elements each of them has.
struct ScratchLayout {
  explicit ScratchLayout(const tessera_attention_problem& problem)
      : padded_dim_v(RoundUp(problem.head_dim_v, kTileColumns)),
        q(kBlockRows * problem.head_dim_qk),
        key(RoundUp(problem.head_dim_qk, kTileColumns)),
        panel(std::max(kTileColumns * problem.head_dim_qk, kChunkKeys * padded_dim_v)),
        output(kBlockRows * padded_dim_v) {}

  int64_t total() const { return q + key + panel + output; }
  Scratch At(double* memory) const {
    return {.q = memory, .key = memory + q, .panel = memory + q + key, .output = memory + q + key + panel};
  }

  int64_t padded_dim_v;
  int64_t q, key, panel, output;
};

// The rows of one block, taken through the steps of the definition.
class OracleRows {
 public:
  OracleRows(const tessera_attention_problem& problem, const RowBlock& block, double* scores,
             const Scratch& scratch)
      : problem_(problem),
        block_(block),
        sequence_(*block.sequence),
        rows_(block.row_end - block.row_begin),
        keys_(WindowOfRows(sequence_, block.row_begin, block.row_end)),
        padded_dim_v_(ScratchLayout(problem).padded_dim_v),
        logit_scale_(static_cast<double>(problem.scale) *
                     ScaleOf(problem.q_scales, block.sequence_index, block.q_head) *
                     ScaleOf(problem.k_scales, block.sequence_index, block.kv_head)),
        value_scale_(ScaleOf(problem.v_scales, block.sequence_index, block.kv_head)),
        scores_(scores + block.scores_offset + block.row_begin * block.scores_stride),
        scratch_(scratch) {}

  void Run() {
    ScaledScores();
    for (int64_t r = 0; r < rows_; ++r) {
      SoftCap(r);
      AddAlibi(r);
      ApplyMasks(r);
      Softmax(r);
    }
    Output();
  }

 private:
  int64_t query(int64_t r) const { return block_.row_begin + r; }
  double* ScoreRow(int64_t r) const { return scores_ + r * block_.scores_stride; }

  // x = scale * Q K^T, fp8 inputs' scales included, for every key that some row of the block has in its
  // window. Panels of keys begin at multiples of their width, so that the last one ends inside the padded
  // row.
  void ScaledScores() {
    const int64_t dim = problem_.head_dim_qk;
    const int64_t first_panel = keys_.begin / kTileColumns * kTileColumns;
    for (int64_t r = 0; r < rows_; ++r) {
      double* q = scratch_.q + r * dim;
      LoadRow(problem_.q, sequence_.q_begin + query(r), block_.q_head, dim, q);
      for (int64_t c = 0; c < dim; ++c) q[c] *= logit_scale_;
      std::fill(ScoreRow(r) + first_panel, ScoreRow(r) + RoundUp(keys_.end, kTileColumns), 0.0);
    }
    for (int64_t j = first_panel; j < keys_.end; j += kTileColumns) {
      LoadKeysTransposed(j, std::min(kTileColumns, keys_.end - j));
      MultiplyTile(rows_, dim, scratch_.q, dim, scratch_.panel, kTileColumns, scores_ + j,
                   block_.scores_stride);
    }
  }

  // panel (head_dim_qk, kTileColumns) = K[key_begin : key_begin + count] transposed; other columns are zero.
  void LoadKeysTransposed(int64_t key_begin, int64_t count) {
    const int64_t dim = problem_.head_dim_qk;
    std::fill(scratch_.panel, scratch_.panel + dim * kTileColumns, 0.0);
    for (int64_t column = 0; column < count; ++column) {
      LoadRow(problem_.k, sequence_.kv_begin + key_begin + column, block_.kv_head, dim, scratch_.key);
      for (int64_t c = 0; c < dim; ++c) scratch_.panel[c * kTileColumns + column] = scratch_.key[c];
    }
  }

  // x = softcap * tanh(x / softcap)
  void SoftCap(int64_t r) {
    if (problem_.softcap == 0) return;
    const double cap = problem_.softcap;
    double* x = ScoreRow(r);
    for (int64_t j = keys_.begin; j < keys_.end; ++j) x[j] = cap * std::tanh(x[j] / cap);
  }

  // x -= slope * |i + diagonal_offset - j|
  void AddAlibi(int64_t r) {
    if (problem_.alibi_slopes == nullptr) return;
    const double slope = problem_.alibi_slopes[block_.q_head];
    const int64_t diagonal = query(r) + sequence_.diagonal_offset;
    double* x = ScoreRow(r);
    for (int64_t j = keys_.begin; j < keys_.end; ++j)
      x[j] -= slope * std::fabs(static_cast<double>(diagonal - j));
  }

  // x += additive mask; x = -inf for every key that the row does not see, whatever x was.
  void ApplyMasks(int64_t r) {
    double* x = ScoreRow(r);
    const KeySpan window = WindowOf(sequence_, query(r));
    std::fill(x + keys_.begin, x + window.begin, -kInfinity);
    std::fill(x + window.end, x + keys_.end, -kInfinity);
    if (problem_.mask_kind == TESSERA_MASK_NONE) return;
    float bias[kMaskChunk];
    for (int64_t begin = window.begin; begin < window.end; begin += kMaskChunk) {
      const int64_t count = std::min(kMaskChunk, window.end - begin);
      LoadMaskBias(problem_, sequence_, block_.q_head, query(r), begin, count, bias);
      for (int64_t c = 0; c < count; ++c) {
        const double b = bias[c];
        x[begin + c] = b == -kInfinity ? b : x[begin + c] + b;
      }
    }
  }

  // p = exp(x - row_max), and row_sum_ with the sink in it; writes the row's lse = row_max + log(row_sum).
  void Softmax(int64_t r) {
    double* x = ScoreRow(r);
    const double sink =
        problem_.sinks != nullptr ? static_cast<double>(problem_.sinks[block_.q_head]) : -kInfinity;
    double row_max = sink;
    for (int64_t j = keys_.begin; j < keys_.end; ++j) row_max = std::max(row_max, x[j]);
    const double shift = row_max == -kInfinity ? 0.0 : row_max;  // exp(-inf - 0) = 0: nothing to see
    double row_sum = std::exp(sink - shift);
    for (int64_t j = keys_.begin; j < keys_.end; ++j) {
      x[j] = std::exp(x[j] - shift);
      row_sum += x[j];
    }
    row_sum_[r] = row_sum;
    if (problem_.lse.data == nullptr) return;
    problem_.lse.data[(sequence_.q_begin + query(r)) * problem_.lse.token_stride +
                      block_.q_head * problem_.lse.head_stride] =
        static_cast<float>(shift + std::log(row_sum));
  }

  // o = P V / row_sum
  void Output() {
    const int64_t dim = problem_.head_dim_v;
    std::fill(scratch_.output, scratch_.output + rows_ * padded_dim_v_, 0.0);
    for (int64_t j = keys_.begin; j < keys_.end; j += kChunkKeys) {
      const int64_t count = std::min(kChunkKeys, keys_.end - j);
      LoadValues(j, count);
      for (int64_t c = 0; c < padded_dim_v_; c += kTileColumns) {
        MultiplyTile(rows_, count, scores_ + j, block_.scores_stride, scratch_.panel + c, padded_dim_v_,
                     scratch_.output + c, padded_dim_v_);
      }
    }
    for (int64_t r = 0; r < rows_; ++r) {
      double* o = scratch_.output + r * padded_dim_v_;
      if (!std::all_of(o, o + dim, [](double value) { return std::isfinite(value); })) SumVisibleValues(r, o);
      for (int64_t c = 0; c < dim; ++c) o[c] = row_sum_[r] == 0 ? 0.0 : o[c] / row_sum_[r] * value_scale_;
      StoreRow(problem_.o, sequence_.q_begin + query(r), block_.q_head, dim, o);
    }
  }

  // panel (kChunkKeys, padded_dim_v_) = V[key_begin : key_begin + count]; the padding is zero.
  void LoadValues(int64_t key_begin, int64_t count) {
    for (int64_t j = 0; j < count; ++j) {
      double* v = scratch_.panel + j * padded_dim_v_;
      LoadRow(problem_.v, sequence_.kv_begin + key_begin + j, block_.kv_head, problem_.head_dim_v, v);
      std::fill(v + problem_.head_dim_v, v + padded_dim_v_, 0.0);
    }
  }

  // o = P V over the visible keys alone. The product above also takes 0 * V of the others, which is not 0
  // where V is NaN or Inf.
  void SumVisibleValues(int64_t r, double* o) {
    const int64_t dim = problem_.head_dim_v;
    const KeySpan window = WindowOf(sequence_, query(r));
    std::fill(o, o + dim, 0.0);
    for (int64_t j = window.begin; j < window.end; ++j) {
      float bias = 0;
      if (problem_.mask_kind != TESSERA_MASK_NONE) {
        LoadMaskBias(problem_, sequence_, block_.q_head, query(r), j, 1, &bias);
      }
      if (bias == -std::numeric_limits<float>::infinity()) continue;
      LoadRow(problem_.v, sequence_.kv_begin + j, block_.kv_head, dim, scratch_.panel);
      for (int64_t c = 0; c < dim; ++c) o[c] += ScoreRow(r)[j] * scratch_.panel[c];
    }
  }

  const tessera_attention_problem& problem_;
  const RowBlock& block_;
  const tessera_sequence& sequence_;
  const int64_t rows_;
  const KeySpan keys_;  // that some row of the block has in its window
  const int64_t padded_dim_v_;
  const double logit_scale_, value_scale_;  // with those of fp8 inputs in them
  double* const scores_;                    // the block's first row
  const Scratch scratch_;
  double row_sum_[kBlockRows];
};

}  // namespace

int64_t OracleWorkspaceBytes(const tessera_attention_problem& problem, int num_workers) {
  const int64_t scratch = SaturatingMultiply(ScratchLayout(problem).total(), num_workers);
  const int64_t elements = SaturatingAdd(ScoreBufferElements(problem, kShape), scratch);
  return SaturatingMultiply(elements, static_cast<int64_t>(sizeof(double)));
}

void OracleAttention(const tessera_attention_problem& problem, std::byte* workspace, ThreadPool& pool) {
  const ScratchLayout layout(problem);
  auto* scratch = reinterpret_cast<double*>(workspace);
  double* scores = scratch + layout.total() * pool.num_workers();
  ForEachRowBlock(problem, kShape, pool, [&](const RowBlock& block, int worker) {
    OracleRows(problem, block, scores, layout.At(scratch + layout.total() * worker)).Run();
  });
}

}  // namespace tessera::kernels::cpu
