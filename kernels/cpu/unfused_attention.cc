// The honest baseline: what a framework without a fused kernel runs, with a good BLAS and a vectorised
// softmax.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "kernels/cpu/element_access.h"
#include "kernels/cpu/fp32_matrices.h"
#include "kernels/cpu/row_blocks.h"
#include "kernels/cpu/row_math.h"
#include "kernels/cpu/standard_attention.h"
#include "kernels/cpu/visibility.h"

namespace tessera::kernels::cpu {
namespace {

using namespace standard;  // NOLINT(google-build-using-namespace): this file is written in its terms

constexpr int64_t kBlockRows = 128;
constexpr int64_t kMaskChunk = 512;  // mask values decoded at a time
constexpr int64_t kAlignElements = 16;
constexpr BlockShape kShape{
    .rows = kBlockRows, .stride_multiple = kAlignElements, .small_pair_elements = int64_t{1} << 22};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Q, K and V as BLAS takes them.
struct Operands {
  explicit Operands(const tessera_attention_problem& problem)
      : q(problem, problem.q, TokenSide::kQuery, problem.num_q_heads, problem.head_dim_qk),
        k(problem, problem.k, TokenSide::kKey, problem.num_kv_heads, problem.head_dim_qk),
        v(problem, problem.v, TokenSide::kKey, problem.num_kv_heads, problem.head_dim_v) {}

  Fp32Matrices q, k, v;
};

// Elements of one worker's output block, (kBlockRows, head_dim_v).
int64_t OutputElements(const tessera_attention_problem& problem) {
  return RoundUp(kBlockRows * problem.head_dim_v, kAlignElements);
}

// The rows of one block, from Q to O.
class UnfusedRows {
 public:
  UnfusedRows(const tessera_attention_problem& problem, const Operands& operands, const Blas& blas,
              const RowBlock& block, float* scores, float* output)
      : problem_(problem),
        block_(block),
        sequence_(*block.sequence),
        rows_(block.row_end - block.row_begin),
        keys_(WindowOfRows(sequence_, block.row_begin, block.row_end)),
        num_keys_(keys_.end - keys_.begin),
        q_(operands.q.Get(block.sequence_index, block.q_head)),
        k_(operands.k.Get(block.sequence_index, block.kv_head)),
        v_(operands.v.Get(block.sequence_index, block.kv_head)),
        logit_scale_(
            static_cast<float>(problem.scale * ScaleOf(problem.q_scales, block.sequence_index, block.q_head) *
                               ScaleOf(problem.k_scales, block.sequence_index, block.kv_head))),
        value_scale_(static_cast<float>(ScaleOf(problem.v_scales, block.sequence_index, block.kv_head))),
        blas_(blas),
        scores_(scores + block.scores_offset + block.row_begin * block.scores_stride),
        output_(output) {}

  void Run() {
    ScaledScores();
    for (int64_t r = 0; r < rows_; ++r) {
      CapAndAlibiRow(r);
      ApplyMasks(r);
      SoftmaxRow(r);
    }
    WeightedValues();
    for (int64_t r = 0; r < rows_; ++r) StoreOutput(r);
  }

 private:
  int64_t query(int64_t r) const { return block_.row_begin + r; }
  // Score of key j at ScoreRow(r)[j].
  float* ScoreRow(int64_t r) const { return scores_ + r * block_.scores_stride; }

  // S = scale * Q K^T, fp8 inputs' scales included, for the keys that some row of the block has in its
  // window.
  void ScaledScores() {
    if (num_keys_ == 0) return;
    blas_.Sgemm(/*transpose_b=*/true, rows_, num_keys_, problem_.head_dim_qk, logit_scale_,
                q_.data + block_.row_begin * q_.stride, q_.stride, k_.data + keys_.begin * k_.stride,
                k_.stride, 0.0f, scores_ + keys_.begin, block_.scores_stride);
  }

  void CapAndAlibiRow(int64_t r) {
    const float slope = problem_.alibi_slopes != nullptr ? problem_.alibi_slopes[block_.q_head] : 0.0f;
    if (problem_.softcap == 0 && slope == 0) return;
    const int64_t diagonal = query(r) + sequence_.diagonal_offset - keys_.begin;
    CapAndAlibi(ScoreRow(r) + keys_.begin, num_keys_, problem_.softcap, slope, static_cast<float>(diagonal));
  }

  // Adds the additive mask, and hides the keys that the row does not see.
  void ApplyMasks(int64_t r) {
    float* x = ScoreRow(r);
    const KeySpan window = WindowOf(sequence_, query(r));
    std::fill(x + keys_.begin, x + window.begin, -kInfinity);
    std::fill(x + window.end, x + keys_.end, -kInfinity);
    if (problem_.mask_kind == TESSERA_MASK_NONE) return;
    float bias[kMaskChunk];
    for (int64_t begin = window.begin; begin < window.end; begin += kMaskChunk) {
      const int64_t count = std::min(kMaskChunk, window.end - begin);
      LoadMaskBias(problem_, sequence_, block_.q_head, query(r), begin, count, bias);
      AddBias(x + begin, bias, count);
    }
  }

  // P = exp(S - row_max); normalising waits for the output, which is narrower.
  void SoftmaxRow(int64_t r) {
    const float sink = problem_.sinks != nullptr ? problem_.sinks[block_.q_head] : -kInfinity;
    softmax_[r] = Softmax(ScoreRow(r) + keys_.begin, num_keys_, sink);
    if (problem_.lse.data == nullptr) return;
    problem_.lse.data[(sequence_.q_begin + query(r)) * problem_.lse.token_stride +
                      block_.q_head * problem_.lse.head_stride] =
        softmax_[r].shift + std::log(softmax_[r].sum);
  }

  // O = P V, not normalised.
  void WeightedValues() {
    if (num_keys_ == 0) {
      std::fill(output_, output_ + rows_ * problem_.head_dim_v, 0.0f);
      return;
    }
    blas_.Sgemm(/*transpose_b=*/false, rows_, problem_.head_dim_v, num_keys_, 1.0f, scores_ + keys_.begin,
                block_.scores_stride, v_.data + keys_.begin * v_.stride, v_.stride, 0.0f, output_,
                problem_.head_dim_v);
  }

  void StoreOutput(int64_t r) {
    const int64_t dim = problem_.head_dim_v;
    float* o = output_ + r * dim;
    if (!std::all_of(o, o + dim, [](float value) { return std::isfinite(value); })) SumVisibleValues(r, o);
    const float normaliser = softmax_[r].sum == 0 ? 0.0f : value_scale_ / softmax_[r].sum;
    for (int64_t c = 0; c < dim; ++c) o[c] *= normaliser;
    StoreRow(problem_.o, sequence_.q_begin + query(r), block_.q_head, dim, o);
  }

  // O = P V over the visible keys alone. The GEMM also takes 0 * V of the others, which is not 0 where V is
  // NaN or Inf.
  void SumVisibleValues(int64_t r, float* o) {
    const int64_t dim = problem_.head_dim_v;
    const KeySpan window = WindowOf(sequence_, query(r));
    std::fill(o, o + dim, 0.0f);
    for (int64_t j = window.begin; j < window.end; ++j) {
      float bias = 0;
      if (problem_.mask_kind != TESSERA_MASK_NONE) {
        LoadMaskBias(problem_, sequence_, block_.q_head, query(r), j, 1, &bias);
      }
      if (bias == -kInfinity) continue;
      const float p = ScoreRow(r)[j];
      const float* v = v_.data + j * v_.stride;
      for (int64_t c = 0; c < dim; ++c) o[c] += p * v[c];
    }
  }

  const tessera_attention_problem& problem_;
  const RowBlock& block_;
  const tessera_sequence& sequence_;
  const int64_t rows_;
  const KeySpan keys_;  // that some row of the block has in its window
  const int64_t num_keys_;
  const Fp32Matrix q_, k_, v_;
  const float logit_scale_, value_scale_;  // with those of fp8 inputs in them
  const Blas& blas_;
  float* const scores_;  // the block's first row
  float* const output_;
  RowSoftmax softmax_[kBlockRows];
};

}  // namespace

int64_t UnfusedWorkspaceBytes(const tessera_attention_problem& problem, int num_workers) {
  const Operands operands(problem);
  int64_t elements = SaturatingMultiply(OutputElements(problem), num_workers);
  for (int64_t part : {ScoreBufferElements(problem, kShape), operands.q.copy_elements(),
                       operands.k.copy_elements(), operands.v.copy_elements()}) {
    elements = SaturatingAdd(elements, SaturatingAdd(part, kAlignElements));
  }
  return SaturatingMultiply(elements, static_cast<int64_t>(sizeof(float)));
}

void UnfusedAttention(const tessera_attention_problem& problem, const Blas& blas, std::byte* workspace,
                      ThreadPool& pool) {
  auto* free = reinterpret_cast<float*>(workspace);
  const auto take = [&free](int64_t elements) {
    return std::exchange(free, free + RoundUp(elements, kAlignElements));
  };
  float* const outputs = take(OutputElements(problem) * pool.num_workers());
  float* const scores = take(ScoreBufferElements(problem, kShape));
  Operands operands(problem);
  for (Fp32Matrices* matrices : {&operands.q, &operands.k, &operands.v}) {
    matrices->Convert(take(matrices->copy_elements()), pool);
  }
  ForEachRowBlock(problem, kShape, pool, [&](const RowBlock& block, int worker) {
    float* const output = outputs + worker * OutputElements(problem);
    UnfusedRows(problem, operands, blas, block, scores, output).Run();
  });
}

}  // namespace tessera::kernels::cpu
