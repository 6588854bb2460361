// Fused attention for compute capability 9.0, after FlashAttention-3 (arXiv:2407.08608, Algorithms 1 and 2):
// a producer warp brings tiles through the copy engine, two or three consumer warpgroups multiply with wgmma,
// keep scores, weights and output in registers, and overlap the softmax of one K/V tile with the products of
// its neighbours. The grid is persistent and draws row tiles by falling length.
#pragma once

#include "kernels/cuda/hopper/config.cuh"
#include "kernels/cuda/hopper/consumer.cuh"
#include "kernels/cuda/hopper/epilogue.cuh"
#include "kernels/cuda/hopper/inspector.cuh"
#include "kernels/cuda/hopper/masking.cuh"
#include "kernels/cuda/hopper/producer.cuh"
#include "kernels/cuda/hopper/softmax.cuh"

namespace tessera::kernels::cuda::hopper {

// The turns of the consumer warpgroups at the tensor cores: named barrier 1 + w lets warpgroup w go on. It
// also brings the warps of a warpgroup together.
template <class Config>
struct Turns {
  int warpgroup;

  // Before the first Await.
  __device__ void Begin() const {
    if (Config::kTakeTurns && warpgroup == Config::kConsumers - 1) Pass();
  }
  __device__ void Await() const {
    if (Config::kTakeTurns) ptx::SyncNamed(1 + warpgroup, 256);
  }
  // Of the warpgroup's own warps.
  __device__ void Meet() const {
    if (Config::kStagesOutput) ptx::SyncNamed(2 + Config::kConsumers + warpgroup, 128);
  }
  __device__ void Pass() const {
    if (Config::kTakeTurns) ptx::ArriveNamed(warpgroup + 1 == Config::kConsumers ? 1 : 2 + warpgroup, 256);
  }
};

template <class Config>
__device__ void InitBarriers(Shared<Config>& shared) {
  constexpr int kConsumerWarps = Config::kConsumers * 4;
#pragma unroll
  for (int stage = 0; stage < Config::kQueryStages; ++stage) {
    ptx::InitBarrier(shared.q_full[stage], 1);
    ptx::InitBarrier(shared.q_empty[stage], Config::kStagesOutput ? 1 : kConsumerWarps);
  }
#pragma unroll
  for (int slot = 0; slot < Config::kPostings; ++slot) {
    ptx::InitBarrier(shared.posting_full[slot], 32);
    ptx::InitBarrier(shared.posting_empty[slot], (kConsumerWarps + kInspectorWarps) * 32);
  }
#pragma unroll
  for (int stage = 0; stage < Config::kStages; ++stage) {
    ptx::InitBarrier(shared.k_full[stage], 1);
    ptx::InitBarrier(shared.k_empty[stage], kConsumerWarps);
    ptx::InitBarrier(shared.v_full[stage], 1);
    ptx::InitBarrier(shared.v_empty[stage], kConsumerWarps);
    ptx::InitBarrier(shared.v_loaded[stage], 1);
  }
  ptx::FenceBarrierInit();
}

// A consumer warpgroup's whole life. S of a K/V tile is computed together with P V of the one before it, and
// becomes P while that still runs; with two stages of Q this goes on across row tiles, whose last product
// overlaps with the first of the next.
template <class Config>
class ConsumerLoop {
 public:
  __device__ ConsumerLoop(const HopperProblem& launch, Shared<Config>& shared)
      : problem(launch.problem),
        shared(shared),
        turns{consumer.warpgroup},
        logits(MakePolicy(launch, shared)) {}

  __device__ void Run() {
    turns.Begin();
    if (!NextRowTile()) return;
    BeginRows();
    FirstScores();
    for (;;) {
      for (; tile >= first_tile; --tile) InnerStep();
      if constexpr (Config::kOwnWalks) {
        if (__any_sync(~0u, skips_first)) SkipKeys();
      }
      posting.Advance();
      if constexpr (Config::kQueryStages == 1) {  // the next Q is still on its way: finish first
        LastOutput();
        if (!NextRowTile()) return;
        BeginRows();
        FirstScores();
      } else {
        if (!NextRowTile()) break;
        BorderStep();
      }
    }
    LastOutput();
  }

 private:
  using Logits = typename Config::Logits;
  static constexpr bool kLeavesNan = requires { &Logits::HideNan; };
  // At the border only its turn proves to a warpgroup that all warps have left the queries where O is going.
  static_assert(!Config::kStagesOutput || Config::kTakeTurns);

  const DeviceProblem& problem;
  Shared<Config>& shared;
  Consumer<Config> consumer;
  Turns<Config> turns;
  Logits logits;
  OnlineSoftmax<Config> softmax;
  // Of the row tile whose scores are computed, and of the one whose output is: the same or the one before.
  RingPosition<Config::kQueryStages> q, output_q;
  RingPosition<Config::kStages> k, v;
  RingPosition<Config::kPostings> posting, output_posting;
  int32_t tile, first_tile, full_first_tile, full_end_tile;
  bool skips_first;        // leaves out the tile before first_tile
  int values_to_skip = 0;  // tiles
  bool accumulate;

  __device__ static Logits MakePolicy(const HopperProblem& launch, Shared<Config>& shared) {
    if constexpr (requires { typename Logits::Storage; }) {
      return Logits(launch.problem, shared.logits);
    } else {
      return Logits(launch.problem);
    }
  }

  __device__ bool NextRowTile() {
    ptx::Wait(shared.q_full[q.index], q.parity);
    const Posting& row_tile = shared.posting(posting.index);
    if (!row_tile.valid) return false;
    const KeyWalk& walk = Config::kOwnWalks ? row_tile.own[turns.warpgroup] : row_tile.walk;
    first_tile = walk.first_tile;
    tile = walk.end_tile - 1;
    full_first_tile = walk.full_first_tile;
    full_end_tile = walk.full_end_tile;
    if constexpr (Config::kOwnWalks) {
      // Votes keep these branches uniform to the compiler, and with them places in rings.
      skips_first = walk.first_tile > row_tile.walk.first_tile;
      if (__any_sync(~0u, walk.end_tile < row_tile.walk.end_tile)) SkipKeys();
    }
    logits.Enter(row_tile.work, consumer);
    logits.Load(row_tile.work, consumer, tile);
    return true;
  }

  // Past the rows of the tile lie queries of another sequence, or what was in the room before: they must have
  // no say in how the tile's own rows are computed.
  __device__ void BeginRows() {
    softmax.Reset();
    if constexpr (Logits::kBounded) {
      const BlockWork& work = shared.posting(posting.index).work;
      const int32_t rows = min(problem.tile_rows, work.num_rows - work.first_row);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (consumer.Row(half) >= rows) softmax.LeaveOut(half);
      }
    }
  }

  __device__ void Release(ptx::Barrier& barrier) const {
    if (consumer.lane == 0) ptx::Arrive(barrier);
  }
  __device__ void ReleaseKeys() {
    Release(shared.k_empty[k.index]);
    k.Advance();
    if (tile == first_tile) {
      if (!Config::kStagesOutput) Release(shared.q_empty[q.index]);
      q.Advance();
    }
  }
  __device__ void ReleaseValues() {
    Release(shared.v_empty[v.index]);
    v.Advance();
  }
  // Of a tile that another warpgroup needs: nobody's turn may be left out. Its values are skipped once those
  // before them have been used.
  __device__ void SkipKeys() {
    ptx::Wait(shared.k_full[k.index], k.parity);  // lest the arrival count for the phase before
    turns.Await();
    turns.Pass();
    Release(shared.k_empty[k.index]);
    k.Advance();
    ++values_to_skip;
  }
  __device__ void SkipValues() {
    if constexpr (Config::kOwnWalks) {
      for (; __any_sync(~0u, values_to_skip > 0); --values_to_skip) {
        ptx::Wait(shared.v_full[v.index], v.parity);
        ReleaseValues();
      }
    }
  }
  // Whether the window or the end of the keys cuts the tile.
  __device__ bool IsCut() const { return tile < full_first_tile || tile >= full_end_tile; }
  // From products to what the softmax takes.
  __device__ void MakeLogits() {
    const BlockWork& work = shared.posting(posting.index).work;
    logits.Apply(work, consumer, tile);
    if constexpr (requires { &Logits::LoadNext; }) {
      if (tile > first_tile) logits.LoadNext();
    }
    if (IsCut()) Masking<Config>{problem, work}.ApplyWindow(consumer, tile);
  }
  __device__ float2 MakeWeights() {
    if constexpr (Logits::kBounded) {
      // The vote makes the branch uniform to the compiler.
      if (__all_sync(~0u, logits.IsSmooth() && softmax.Begun() && !IsCut())) {
        return softmax.UpdateBounded(consumer, logits);
      }
    }
    MakeLogits();
    return softmax.Update(consumer, logits);
  }
  // To be called once weights are made, with whatever else is rare.
  __device__ void HideNan() {
    if constexpr (kLeavesNan) {
      if (!__any_sync(~0u, softmax.SawNan())) return;
      logits.HideNan(shared.posting(posting.index).work, consumer, tile);
      softmax.SumAnew(consumer);
    }
  }
  __device__ Epilogue<Config> Finished() {
    return {problem, shared.posting(output_posting.index), shared.q[output_q.index]};
  }
  __device__ void Store(const OutputScales& scales) {
    Finished().Store(consumer, scales);
    ptx::Arrive(shared.posting_empty[output_posting.index]);  // with the posting, and O, by each thread
    output_posting.Advance();
    output_q.Advance();
  }

  __device__ void LastOutput() {
    ptx::Wait(shared.v_full[v.index], v.parity);
    consumer.StartOutput(shared, v.index, accumulate);
    const OutputScales scales = Finished().Finish(consumer, softmax);
    consumer.AwaitAll();
    ReleaseValues();
    SkipValues();
    turns.Meet();  // lest a warp still multiply by the queries where O is going
    Store(scales);
  }

  __device__ void FirstScores() {
    ptx::Wait(shared.k_full[k.index], k.parity);
    consumer.StartScores(shared, q.index, k.index);
    SkipValues();
    consumer.AwaitAll();
    ReleaseKeys();
    MakeLogits();
    softmax.Update(consumer, logits);
    HideNan();
    consumer.RoundWeights();
    accumulate = false;
    --tile;
  }

  __device__ void StartBoth() {
    ptx::Wait(shared.k_full[k.index], k.parity);
    turns.Await();
    consumer.StartScores(shared, q.index, k.index);
    ptx::Wait(shared.v_full[v.index], v.parity);
    consumer.StartOutput(shared, v.index, accumulate);
    turns.Pass();
    consumer.AwaitScores();
    ReleaseKeys();
  }

  __device__ void InnerStep() {
    StartBoth();
    const float2 rescale = MakeWeights();
    // The branch also keeps the compiler from waiting for the output ahead of the softmax.
    if (__any_sync(~0u, Moves(rescale) || (kLeavesNan && softmax.SawNan()))) {
      HideNan();
      consumer.AwaitAll();
      softmax.Rescale(consumer, rescale);
    }
    consumer.AwaitAll();
    ReleaseValues();
    consumer.RoundWeights();
    accumulate = true;
  }

  __device__ void BorderStep() {
    StartBoth();
    MakeLogits();
    const OutputScales scales = Finished().Finish(consumer, softmax);
    BeginRows();
    softmax.Update(consumer, logits);
    HideNan();
    consumer.AwaitAll();
    ReleaseValues();
    SkipValues();
    Store(scales);
    consumer.RoundWeights();
    accumulate = false;
    --tile;
  }
};

// The kernel's body.
template <class Config>
__device__ void FusedHopper(const HopperProblem& launch) {
  extern __shared__ __align__(1024) std::byte shared_memory[];
  static_assert(sizeof(Shared<Config>) <= kMaxSharedBytes);
  auto& shared = *reinterpret_cast<Shared<Config>*>(shared_memory);
  if (threadIdx.x == 0) InitBarriers(shared);
  if (threadIdx.x == 32 && launch.use_copy_engine) {
    ptx::PrefetchMap(launch.q);
    ptx::PrefetchMap(launch.k);
    ptx::PrefetchMap(launch.v);
    if (launch.store_rows > 0) ptx::PrefetchMap(launch.o);
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::ReleaseRegisters<Config::kProducerRegisters>();
    if (threadIdx.x < 32) Produce(launch, shared);
    if (threadIdx.x / 32 == 1) Schedule(launch, shared);
    if (threadIdx.x >= 64) Inspector<Config>(launch.problem, shared).Run();
  } else {
    ptx::ClaimRegisters<Config::kConsumerRegisters>();
    ConsumerLoop<Config>(launch, shared).Run();
  }
}

}  // namespace tessera::kernels::cuda::hopper
