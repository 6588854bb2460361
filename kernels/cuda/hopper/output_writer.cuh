// Brings finished row tiles of O from shared to device memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"

namespace tessera::kernels::cuda::hopper {

template <typename Output>
inline constexpr tessera_dtype kDtype =
    std::is_same_v<Output, __nv_bfloat16> ? TESSERA_DTYPE_BF16 : TESSERA_DTYPE_FP16;

// Whether rows of O are stored in 16-byte pieces, as they are: no other dtype, and nothing to be added.
template <class Config>
__device__ bool StoresPieces(const DeviceProblem& problem, const Posting& posting) {
  return problem.o.dtype == kDtype<typename Config::Output> && problem.o.vectorised &&
         posting.spoilt_begin >= posting.spoilt_end;
}

// By one warp, after the consumers have put the tile where its queries were: they go on with the next.
template <class Config>
class OutputWriter {
 public:
  __device__ OutputWriter(const HopperProblem& launch, Shared<Config>& shared)
      : launch(launch), shared(shared) {}

  // Row tiles in the order they were posted. The room is the producer's again.
  __device__ void Write(const Posting& posting) {
    if (StoresPieces<Config>(launch.problem, posting)) {
      const BlockWork& work = posting.work;
      const int32_t rows = min(launch.problem.tile_rows, work.num_rows - work.first_row);
      const int32_t boxes = launch.store_rows > 0 ? rows / launch.store_rows : 0;
      ptx::FenceAsyncProxy();  // behind what the consumers have written
      StoreBoxes(work, boxes);
      StoreRows(work, boxes * launch.store_rows, rows);
      ptx::FenceAsyncProxy();  // before what the copy engine brings there
    }
    __syncwarp();
    if (lane == 0) ptx::Arrive(shared.q_empty[q.index]);
    q.Advance();
  }

 private:
  using Tile = std::remove_reference_t<decltype(std::declval<Shared<Config>&>().q[0])>;

  const HopperProblem& launch;
  Shared<Config>& shared;
  RingPosition<Config::kQueryStages> q;
  const int lane = static_cast<int>(threadIdx.x) % 32;

  // The first `boxes` boxes, by the copy engine.
  __device__ void StoreBoxes(const BlockWork& work, int32_t boxes) const {
    constexpr int kSlabs = (Config::kDimV + Tile::kSlabColumns - 1) / Tile::kSlabColumns;
    if (lane >= boxes * kSlabs) return;
    const auto token = static_cast<int32_t>(work.sequence.q_begin);
#pragma unroll 1
    for (int i = lane; i < boxes * kSlabs; i += 32) {
      const int slab = i % kSlabs, row = i / kSlabs * launch.store_rows;
      ptx::StoreBox(launch.o, shared.q[q.index].Slab(slab) + row * 128, slab * Tile::kSlabColumns, 0,
                    token + work.Query(work.first_row + row), work.row_head);
    }
    ptx::CommitStores();
    ptx::AwaitStoresRead();
  }

  // Rows [begin, end), where a box would reach into the next sequence.
  __device__ void StoreRows(const BlockWork& work, int32_t begin, int32_t end) const {
    constexpr int kChunks = Config::kDimV / 8;
    const DeviceTensor& o = launch.problem.o;
#pragma unroll 2
    for (int i = begin * kChunks + lane; i < end * kChunks; i += 32) {
      const int chunk = i % kChunks;
      const int32_t row = work.first_row + i / kChunks;
      if (chunk * 8 >= launch.problem.head_dim_v) continue;
      const int64_t at = (work.sequence.q_begin + work.Query(row)) * o.token_stride +
                         work.Head(row) * o.head_stride + chunk * 8;
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(o.data) + at) =
          *shared.q[q.index].Chunk(i / kChunks, chunk);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
