// The fp32 kernel of a translation unit's instruction set.
#pragma once

#include "kernels/cpu/fused_gemm.inc.h"
#include "kernels/cpu/fused_run.inc.h"

namespace tessera::kernels::cpu {
namespace {

void RunF32(const FusedTask& task, const TileShape& shape, std::byte* scratch) {
  WithInputType(task.problem->q.dtype, [&](auto* element) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    if (IsStream(task)) return RunStreamTask<T>(task, shape, scratch);
    RunTiles<F32Engine, T>(task, shape, scratch);
  });
}

constexpr FusedKernel F32Kernel() {
  return {.block_q = kBlockRows,
          .lanes = kLanes,
          .max_tile_q = 256,
          .default_tile_kv = 96,
          .max_tile_kv = kMaxTileKv,
          .operand_bytes = 4,
          .pack_rows = 8,
          .scratch_bytes = ScratchBytes<F32Engine>,
          .run = RunF32};
}

}  // namespace
}  // namespace tessera::kernels::cpu
