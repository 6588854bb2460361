// What a Hopper kernel is launched with.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/device_problem.h"

namespace tessera::kernels::cuda::hopper {

struct HopperProblem {
  CUtensorMap q, k, v;    // tensor_map.h; read only with use_copy_engine
  CUtensorMap o;          // of boxes of `store_rows` rows; read only where they are not 0
  DeviceProblem problem;  // tiles of PackRows()
  bool use_copy_engine;   // Q, K and V are read through their maps; else element by element
  int32_t store_rows;     // rows of O that are stored through its map at once; 0: none are
  uint32_t* next_block;   // the launch's counter of drawn row tiles: 0 before and after
};

}  // namespace tessera::kernels::cuda::hopper
