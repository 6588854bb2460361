#include "kernels/cuda/hopper/hopper_launch.h"

#include <algorithm>
#include <numeric>

#include "kernels/cuda/element_bytes.h"
#include "kernels/cuda/hopper/draw_counters.h"
#include "kernels/cuda/hopper/hopper_problem.h"
#include "kernels/cuda/tensor_map.h"

namespace tessera::kernels::cuda::hopper {

namespace {

// Whether all row tiles of a sequence take equally long.
bool IsUniform(const tessera_attention_problem& problem) {
  return std::all_of(problem.sequences, problem.sequences + problem.num_sequences,
                     [](const tessera_sequence& s) { return s.window_left < 0 && s.window_right < 0; });
}

// Whether the heads of a sequence read the same mask of 4 bytes an element. Such a mask comes straight from
// device memory; the latency of narrower ones is hidden.
bool SharesWideMask(const tessera_attention_problem& problem) {
  return problem.mask_kind != TESSERA_MASK_NONE && ElementBytes(problem.mask_dtype) == 4 &&
         std::all_of(problem.sequences, problem.sequences + problem.num_sequences,
                     [](const tessera_sequence& s) { return s.mask_head_stride == 0; });
}

// Rows of a box of O: whole queries, and whole repeats of the swizzle, as few as can be but 16. What is left
// of a row tile is stored otherwise. 0 where no box fits the tile.
int32_t StoreRows(const RowTiling& tiling) {
  constexpr int32_t kSwizzledRows = 8, kFewest = 16;
  int32_t rows = std::lcm(tiling.rows_per_query, kSwizzledRows);
  if (rows < kFewest) rows = kFewest;
  return rows <= tiling.tile_rows ? rows : 0;
}

}  // namespace

// Where row tiles are equally long, one pair after the other is best for L2, unless pairs wait for the same
// mask. Else longest row tiles come first, over as many pairs as can be, lest the launch end with a few
// multiprocessors at work: those that fit in L2 beside the Q and O that pass through it, or so few that each
// key tile is loaded for kSharers row tiles at about the same time.
int64_t WalkedBytes(const tessera_attention_problem& problem, const DeviceTraits& traits) {
  constexpr int64_t kSharers = 4;
  if (IsUniform(problem) && !SharesWideMask(problem)) return 0;
  int64_t longest = 0;
  for (int64_t n = 0; n < problem.num_sequences; ++n)
    longest = std::max(longest, problem.sequences[n].kv_len);
  const int64_t pair_bytes =
      longest * (int64_t{problem.head_dim_qk} + problem.head_dim_v) * ElementBytes(problem.k.dtype);
  return std::max(traits.l2_bytes / 8 * 5, traits.multiprocessors / kSharers * pair_bytes);
}

cudaError_t Launch(const FusedKernel& kernel, const tessera_attention_problem& problem,
                   const RowTiling& tiling, const DeviceTraits& traits, void* workspace,
                   cudaStream_t stream) {
  static_assert(sizeof(HopperProblem) <= 32764, "a launch's parameters");
  HopperProblem launch{};
  cudaError_t error =
      MakeDeviceProblem(problem, tiling, WalkedBytes(problem, traits), workspace, stream, &launch.problem);
  const int32_t num_blocks = launch.problem.num_blocks();
  if (error != cudaSuccess || num_blocks == 0) return error;
  launch.use_copy_engine = CanMapInputs(problem);
  if (launch.use_copy_engine) {
    error = MapQuery(problem, tiling, &launch.q);
    if (error == cudaSuccess) error = MapKey(problem, kernel.tile_kv, &launch.k);
    if (error == cudaSuccess) error = MapValue(problem, kernel.tile_kv, &launch.v);
    if (error != cudaSuccess) return error;
  }
  launch.store_rows = CanMapOutput(problem) ? StoreRows(tiling) : 0;
  if (launch.store_rows > 0) {
    error = MapOutput(problem, {tiling.rows_per_query, launch.store_rows}, &launch.o);
    if (error != cudaSuccess) return error;
  }
  error = TakeDrawCounter(&launch.next_block);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kernel.shared_memory_bytes);
  if (error != cudaSuccess) return error;
  void* arguments[] = {&launch};
  return cudaLaunchKernel(kernel.function,
                          dim3(static_cast<unsigned>(std::min(traits.multiprocessors, num_blocks))),
                          dim3(static_cast<unsigned>(kernel.threads)), arguments,
                          static_cast<size_t>(kernel.shared_memory_bytes), stream);
}

}  // namespace tessera::kernels::cuda::hopper
