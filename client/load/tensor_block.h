// Random elements that the tensors of all requests are cut from: the tensors of a workload differ, and yet
// take little memory and no time to fill.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/cli/random.h"
#include "client/tensor.h"

namespace tessera::load {

// Of one dtype; standard normal. Immutable, and must outlive every slice of a request that was cut from it.
class TensorBlock {
 public:
  // Fits tensors of up to `largest` elements.
  TensorBlock(client::DType dtype, int64_t largest, client::Random& random);

  // Begins at a random place, on a multiple of 64 bytes.
  client::TensorView Cut(std::vector<int64_t> shape, client::Random& random) const;
  // What the elements are multiplied by: not 1 for fp8 alone.
  float scale() const { return scale_; }

 private:
  client::Tensor tensor_;
  float scale_ = 1;
};

}  // namespace tessera::load
