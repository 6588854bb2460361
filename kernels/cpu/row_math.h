// What unfused attention does to one row of fp32 scores between its two GEMMs, vectorised for the processor
// it runs on.
#pragma once

#include <cstdint>

namespace tessera::kernels::cpu::standard {

// x[c] = softcap * tanh(x[c] / softcap) - slope * |diagonal - c|, each part where its factor is not 0.
void CapAndAlibi(float* x, int64_t count, float softcap, float slope, float diagonal);

// x[c] = x[c] + bias[c]; -inf, whatever x[c] was, where bias[c] is -inf.
void AddBias(float* x, const float* bias, int64_t count);

struct RowSoftmax {
  float shift;  // the largest of x and `sink`; 0 where all of them are -inf
  float sum;    // of exp(x[c] - shift), and exp(sink - shift)
};
// x[c] = exp(x[c] - shift), not normalised. `sink` is -inf where there is none.
RowSoftmax Softmax(float* x, int64_t count, float sink);

}  // namespace tessera::kernels::cpu::standard
