// Random attention problems over the grid of features, for tessera verify.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/attend_call.h"

namespace tessera::client {

struct ProblemRange {
  std::vector<DType> dtypes{v1::DATA_TYPE_FP32, v1::DATA_TYPE_FP16, v1::DATA_TYPE_BF16,
                            v1::DATA_TYPE_FP8_E4M3};
  int64_t max_length = 200;  // of queries, and of keys, in one sequence; >= 1
  int64_t max_head_dim = 256;
  int64_t head_dim_multiple = 1;
};

// Owns the tensors that `call` borrows.
struct RandomProblem {
  Tensor q, k, v;
  std::vector<Tensor> masks;
  AttendCall call;
  std::vector<std::string> features;  // names of what is switched on, for coverage counts

  // "fp16 packed, q [97, 8, 64], kv [131, 2, 64], q_lens 33,64, ..., causal, softcap"
  std::string Describe() const;
};

// Case `index` of the run with `seed`: the same problem each time. Consecutive indices walk through dtypes
// and layouts; everything else is drawn. Keys and queries behind a padded sequence's end hold NaN, which must
// not matter.
std::unique_ptr<RandomProblem> MakeRandomProblem(uint64_t seed, int64_t index, const ProblemRange& range);

}  // namespace tessera::client
