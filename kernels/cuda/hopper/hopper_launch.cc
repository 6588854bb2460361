#include "kernels/cuda/hopper/hopper_launch.h"

#include <algorithm>

#include "kernels/cuda/hopper/draw_counters.h"
#include "kernels/cuda/hopper/hopper_problem.h"
#include "kernels/cuda/tensor_map.h"

namespace tessera::kernels::cuda::hopper {

cudaError_t Launch(const FusedKernel& kernel, const tessera_attention_problem& problem,
                   const RowTiling& tiling, const DeviceTraits& traits, void* workspace,
                   cudaStream_t stream) {
  HopperProblem launch;
  cudaError_t error = MakeDeviceProblem(problem, tiling, traits.l2_bytes, workspace, stream, &launch.problem);
  const int32_t num_blocks = launch.problem.num_blocks();
  if (error != cudaSuccess || num_blocks == 0) return error;
  launch.use_copy_engine = CanMapInputs(problem);
  if (launch.use_copy_engine) {
    error = MapQuery(problem, tiling, &launch.q);
    if (error == cudaSuccess) error = MapKey(problem, kernel.tile_kv, &launch.k);
    if (error == cudaSuccess) error = MapValue(problem, kernel.tile_kv, &launch.v);
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
