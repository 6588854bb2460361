// C += A * B in float64: the one product that the oracle needs, vectorised for the processor it runs on.
#pragma once

#include <cstdint>

namespace tessera::kernels::cpu::standard {

inline constexpr int64_t kTileColumns = 8;

// C (rows, 8) += A (rows, depth) * B (depth, 8), row-major with strides in elements.
void MultiplyTile(int64_t rows, int64_t depth, const double* a, int64_t a_stride, const double* b,
                  int64_t b_stride, double* c, int64_t c_stride);

}  // namespace tessera::kernels::cpu::standard
