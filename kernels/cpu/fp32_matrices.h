// A problem's tensor as fp32 matrices, one for each (sequence, head), as BLAS takes them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "tessera/attention.h"

namespace tessera::kernels::cpu::standard {

// Row-major (tokens of the sequence, dim), `stride` elements from row to row.
struct Fp32Matrix {
  const float* data;
  int64_t stride;
};

// Which tokens of the tensor a sequence has.
enum class TokenSide { kQuery, kKey };

// Views the tensor's own memory where it is fp32 with strides that BLAS takes, else a converted copy.
class Fp32Matrices {
 public:
  Fp32Matrices(const tessera_attention_problem& problem, const tessera_tensor& tensor, TokenSide side,
               int32_t heads, int32_t dim);

  // Elements of the copy; 0 where none is needed. Saturates at INT64_MAX.
  int64_t copy_elements() const { return copy_elements_; }

  // Fills the copy, where one is needed, in `memory`, which outlives this.
  void Convert(float* memory, ThreadPool& pool);

  Fp32Matrix Get(int64_t sequence, int32_t head) const;

 private:
  int64_t begin(int64_t sequence) const;
  int64_t length(int64_t sequence) const;

  const tessera_attention_problem& problem_;
  const tessera_tensor& tensor_;
  const TokenSide side_;
  const int32_t heads_;
  const int32_t dim_;
  int64_t copy_elements_ = 0;
  const float* copy_ = nullptr;        // for each sequence: (heads, tokens, dim)
  std::vector<int64_t> copy_offsets_;  // of each sequence in the copy
};

}  // namespace tessera::kernels::cpu::standard
