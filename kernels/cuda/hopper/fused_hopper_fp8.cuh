// Fused attention for fp8 (e4m3) on compute capability 9.0: the 16-bit kernel (fused_hopper.cuh) with a
// transposer between producer and consumers, since the tensor cores take fp8 operands in one orientation
// only, P in fp8, and sums of P V at two levels.
#pragma once

#include "kernels/cuda/hopper/epilogue.cuh"
#include "kernels/cuda/hopper/fp8_consumer.cuh"
#include "kernels/cuda/hopper/fp8_logits.cuh"
#include "kernels/cuda/hopper/fp8_softmax.cuh"
#include "kernels/cuda/hopper/fp8_sums.cuh"
#include "kernels/cuda/hopper/fp8_tiles.cuh"
#include "kernels/cuda/hopper/fp8_transposer.cuh"
#include "kernels/cuda/hopper/fused_hopper.cuh"
#include "kernels/cuda/hopper/masking.cuh"
#include "kernels/cuda/hopper/producer.cuh"

namespace tessera::kernels::cuda::hopper {

// A consumer warpgroup's whole life. As in the 16-bit kernel S of a K/V tile is computed together with P V of
// the one before it, across row tiles too.
template <Fp8 Config>
class Fp8ConsumerLoop {
 public:
  __device__ Fp8ConsumerLoop(const HopperProblem& launch, Shared<Config>& shared)
      : problem(launch.problem),
        shared(shared),
        turns{consumer.warpgroup},
        logits(launch.problem),
        sums(shared) {}

  __device__ void Run() {
    turns.Begin();
    if (!NextRowTile()) return;
    FirstScores();
    for (;;) {
      while (tile >= first_tile) InnerStep();
      posting.Advance();
      if (!NextRowTile()) break;
      BorderStep();
    }
    ptx::Wait(shared.vt_full[v.index], v.parity);
    consumer.StartOutput(shared, v.index, sums.Continues());
    consumer.AwaitAll();
    Store(softmax);
  }

 private:
  // Whether the turn passes behind the maxima of the scores: passed with the products before it may let the
  // warpgroups fall into step, both at their exponentials, then both waiting for products. Natural logits
  // take so long to make that this keeps them apart.
  static constexpr bool kPassesLate = !Config::Logits::kNatural;

  const DeviceProblem& problem;
  Shared<Config>& shared;
  Consumer<Config> consumer;
  Turns<Config> turns;
  typename Config::Logits logits;
  OnlineSoftmax<Config> softmax;
  RingPosition<Config::kQueryStages> q;
  RingPosition<Config::kStages> k;
  RingPosition<Config::kTransposedStages> v;
  // Of the row tile whose scores are computed, and of the one whose output is: the same or the one before.
  RingPosition<Config::kPostings> posting, output_posting;
  int32_t tile, first_tile, full_first_tile, full_end_tile;
  RunningSums<Config> sums;

  __device__ bool NextRowTile() {
    ptx::Wait(shared.q_full[q.index], q.parity);
    const Posting& row_tile = shared.posting(posting.index);
    if (!row_tile.valid) return false;
    first_tile = row_tile.walk.first_tile;
    tile = row_tile.walk.end_tile - 1;
    full_first_tile = row_tile.walk.full_first_tile;
    full_end_tile = row_tile.walk.full_end_tile;
    logits.Enter(row_tile.work, consumer);
    return true;
  }

  __device__ void Release(ptx::Barrier& barrier) const {
    if (consumer.lane == 0) ptx::Arrive(barrier);
  }
  __device__ void ReleaseKeys() {
    Release(shared.k_empty[k.index]);
    k.Advance();
    if (tile == first_tile) {
      Release(shared.q_empty[q.index]);
      q.Advance();
    }
  }

  // From products to what the softmax takes.
  __device__ void MakeLogits() {
    logits.Apply(shared.posting(posting.index).work, consumer, tile);
    if (tile < full_first_tile || tile >= full_end_tile) {
      Masking<Config>{problem, shared.posting(posting.index).work}.ApplyWindow(consumer, tile);
    }
  }

  __device__ void FirstScores() {
    ptx::Wait(shared.k_full[k.index], k.parity);
    consumer.StartScores(shared, q.index, k.index);
    consumer.AwaitAll();
    ReleaseKeys();
    MakeLogits();
    softmax.FollowMaxima(consumer, logits);
    softmax.Weigh(consumer, logits);
    consumer.RoundWeights();
    StartRowTile();
  }

  __device__ void StartBoth() {
    ptx::Wait(shared.k_full[k.index], k.parity);
    turns.Await();
    consumer.StartScores(shared, q.index, k.index);
    ptx::Wait(shared.vt_full[v.index], v.parity);
    consumer.StartOutput(shared, v.index, sums.Continues());
    if constexpr (!kPassesLate) turns.Pass();
    consumer.AwaitScores();
    ReleaseKeys();
  }
  // Of scores that StartBoth started.
  __device__ __forceinline__ float2 FollowMaxima() {
    const float2 rescale = softmax.FollowMaxima(consumer, logits);
    if constexpr (kPassesLate) turns.Pass();
    return rescale;
  }
  __device__ void ReleaseValues() {
    Release(shared.vt_empty[v.index]);
    v.Advance();
  }

  __device__ __forceinline__ void InnerStep() {
    StartBoth();
    MakeLogits();
    const float2 rescale = FollowMaxima();
    softmax.Weigh(consumer, logits);
    // The branch also keeps the compiler from waiting for the output ahead of the softmax.
    if (__any_sync(~0u, Moves(rescale))) {
      consumer.AwaitAll();
      consumer.ScaleOutput(rescale);
      sums.Scale(rescale);
    }
    consumer.AwaitAll();
    ReleaseValues();
    consumer.RoundWeights();
    sums.CountTile(consumer);
    --tile;
  }

  __device__ __forceinline__ void BorderStep() {
    StartBoth();
    MakeLogits();
    const OnlineSoftmax<Config> finished = softmax;
    softmax.Reset();
    FollowMaxima();
    softmax.Weigh(consumer, logits);
    consumer.AwaitAll();
    ReleaseValues();
    Store(finished);
    consumer.RoundWeights();
    StartRowTile();
  }

  // With P of its last tile.
  __device__ void StartRowTile() {
    sums.Reset();
    --tile;
  }

  __device__ void Store(const OnlineSoftmax<Config>& finished) {
    const Posting& row_tile = shared.posting(output_posting.index);
    const BlockWork& work = row_tile.work;
    sums.AddTo(consumer);
    const float scale = problem.value_scales(work.sequence)[work.kv_head];
    consumer.ScaleOutput({scale, scale});
    const Epilogue<Config> epilogue{problem, row_tile, shared.q[0]};
    epilogue.Store(consumer, epilogue.Finish(consumer, finished));
    ptx::Arrive(shared.posting_empty[output_posting.index]);  // by each thread
    output_posting.Advance();
  }
};

// The kernel's body.
template <Fp8 Config>
__device__ void FusedHopperFp8(const HopperProblem& launch) {
  extern __shared__ __align__(1024) std::byte shared_memory[];
  static_assert(sizeof(Shared<Config>) <= kMaxSharedBytes);
  auto& shared = *reinterpret_cast<Shared<Config>*>(shared_memory);
  if (threadIdx.x == 0) InitBarriers(shared);
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::ReleaseRegisters<Config::kProducerRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (warp == 0) Produce(launch, shared);
    if (warp == 1) Schedule(launch, shared);
    if (warp >= 4 - kTransposers) Transposer<Config>(launch, shared, warp - (4 - kTransposers)).Run();
  } else {
    ptx::ClaimRegisters<Config::kConsumerRegisters>();
    Fp8ConsumerLoop<Config>(launch, shared).Run();
  }
}

}  // namespace tessera::kernels::cuda::hopper
