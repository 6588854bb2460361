// Exchanges between the four threads that share a row.
#pragma once

#include <cstdint>

namespace tessera::kernels::cuda::hopper {

// Threads with `upper` give `low` and get the other's `high` into it, the others the reverse.
__device__ inline void Exchange(uint32_t& low, uint32_t& high, bool upper, int distance) {
  const uint32_t received = __shfl_xor_sync(~0u, upper ? low : high, distance);
  (upper ? low : high) = received;
}

// Element [i] of thread t goes to element [t] of thread i, in the quad.
__device__ inline void TransposeQuad(uint32_t (&x)[4], int t) {
  Exchange(x[0], x[1], t & 1, 1);
  Exchange(x[2], x[3], t & 1, 1);
  Exchange(x[0], x[2], t & 2, 2);
  Exchange(x[1], x[3], t & 2, 2);
}

}  // namespace tessera::kernels::cuda::hopper
