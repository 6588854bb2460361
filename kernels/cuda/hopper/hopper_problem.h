// What a Hopper kernel is launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda::hopper {

struct HopperProblem {
  CUtensorMap q, k, v;    // tensor_map.h; read only with use_copy_engine
  DeviceProblem problem;  // tiles of PackRows()
  bool use_copy_engine;   // Q, K and V are read through their maps; else element by element
  uint32_t* next_block;   // the launch's counter of drawn row tiles: 0 before and after
};

}  // namespace tessera::kernels::cuda::hopper
