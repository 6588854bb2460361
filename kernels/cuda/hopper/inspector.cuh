// Keeps values that are not finite away from rows that do not see their keys: a hidden key's P is 0, but 0 *
// NaN is NaN.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/tiles.cuh"
#include "kernels/cuda/logits.cuh"

namespace tessera::kernels::cuda::hopper {

// The last warps of the producer's warpgroup.
inline constexpr int kInspectorWarps = 2;

// Two packed elements.
template <typename Element>
struct Pair {
  // Exponents all ones: infinities and NaNs.
  static constexpr uint32_t kExponent = std::is_same_v<Element, __half> ? 0x7c00u : 0x7f80u;
  static constexpr uint32_t kExponents = kExponent << 16 | kExponent;
  // Adding an exponent's lowest bit to it carries out exactly where it is all ones.
  static constexpr uint32_t kCarries = 0x80008000u, kLowest = kCarries - kExponents;

  // A carry where an element is not finite.
  __device__ static uint32_t NonFinite(uint32_t pair) { return (pair & kExponents) + kLowest; }

  __device__ static uint32_t ClearNonFinite(uint32_t pair) {
    const uint32_t found = NonFinite(pair) & kCarries;
    return pair & ~((found >> 15) * 0xffffu);
  }
};

// Sees the tiles of V in which keys are hidden (IsInspected) before the consumers do, and sets what is not
// finite to 0. What rows do see of it, the epilogue adds to their results: Posting says which keys to look
// at.
template <class Config>
class Inspector {
 public:
  __device__ Inspector(const DeviceProblem& problem, Shared<Config>& shared)
      : problem(problem), shared(shared) {}

  __device__ void Run() {
    for (;;) {
      ptx::Wait(shared.posting_full[posting_at.index], posting_at.parity);
      Posting& posting = shared.posting(posting_at.index);
      if (!posting.valid) return;
      const KeyWalk walk = posting.walk;
      for (int32_t tile = walk.end_tile - 1; tile >= walk.first_tile; --tile) {
        if (IsInspected<Config>(problem, walk, tile)) Inspect(posting, tile);
        if (++stage == Config::kStages) stage = 0;
      }
      ptx::Arrive(shared.posting_empty[posting_at.index]);
      posting_at.Advance();
    }
  }

 private:
  using Element = typename Config::Element;
  using Tile = SlabTile<Element, Config::kTileKv, Config::kDimV>;
  static constexpr int kThreads = kInspectorWarps * 32, kChunks = Tile::kBytes / 16;
  static constexpr int kNamedBarrier = 1 + Config::kConsumers;  // behind those of the consumers' turns
  static_assert(kChunks % kThreads == 0);

  const DeviceProblem& problem;
  Shared<Config>& shared;
  RingPosition<Config::kPostings> posting_at;
  int stage = 0;
  uint32_t parities = 0;  // of v_loaded, whose phases count inspected tiles only; a bit each

  __device__ void Inspect(Posting& posting, int32_t tile) {
    ptx::Wait(shared.v_loaded[stage], parities >> stage & 1);
    parities ^= 1u << stage;
    auto* const chunks = reinterpret_cast<uint4*>(shared.v[stage].data);
    const int thread = static_cast<int>(threadIdx.x) % kThreads;
    // 0 times what is finite is 0, of either sign, and NaN otherwise: one instruction for two elements.
    uint32_t sums[4] = {};
#pragma unroll 8
    for (int i = thread; i < kChunks; i += kThreads) {
      const uint4 chunk = chunks[i];
      sums[0] = ptx::MultiplyAddPair(Element{}, chunk.x, 0, sums[0]);
      sums[1] = ptx::MultiplyAddPair(Element{}, chunk.y, 0, sums[1]);
      sums[2] = ptx::MultiplyAddPair(Element{}, chunk.z, 0, sums[2]);
      sums[3] = ptx::MultiplyAddPair(Element{}, chunk.w, 0, sums[3]);
    }
    constexpr uint32_t kMagnitudes = 0x7fff7fffu;
    if (((sums[0] | sums[1] | sums[2] | sums[3]) & kMagnitudes) != 0)
      Clear(problem, posting, tile, chunks, thread);
    ptx::FenceAsyncProxy();
    __syncwarp();
    ptx::SyncNamed(kNamedBarrier, kThreads);
    if (thread == 0) ptx::Arrive(shared.v_full[stage]);
  }

  __device__ static uint32_t NonFinite(const uint4& chunk) {
    return Pair<Element>::NonFinite(chunk.x) | Pair<Element>::NonFinite(chunk.y) |
           Pair<Element>::NonFinite(chunk.z) | Pair<Element>::NonFinite(chunk.w);
  }

  // The thread's part of the tile. Keys that the window hides from all rows are of no interest to the
  // epilogue.
  __device__ static void Clear(const DeviceProblem& problem, Posting& posting, int32_t tile, uint4* chunks,
                               int thread) {
    const BlockWork& work = posting.work;
    const int32_t first_key = WindowOf(work, work.first_row).first_key;
    const int32_t last_key = WindowOf(work, work.first_row + problem.tile_rows - 1).last_key;
#pragma unroll 1
    for (int i = thread; i < kChunks; i += kThreads) {
      uint4 chunk = chunks[i];
      if ((NonFinite(chunk) & Pair<Element>::kCarries) == 0) continue;
      chunk.x = Pair<Element>::ClearNonFinite(chunk.x);
      chunk.y = Pair<Element>::ClearNonFinite(chunk.y);
      chunk.z = Pair<Element>::ClearNonFinite(chunk.z);
      chunk.w = Pair<Element>::ClearNonFinite(chunk.w);
      chunks[i] = chunk;
      const int32_t key = tile * Config::kTileKv + i * 16 % Tile::kSlabBytes / 128;
      if (key < first_key || key > last_key) continue;
      atomicMin(&posting.spoilt_begin, key);
      atomicMax(&posting.spoilt_end, key + 1);
    }
  }
};

}  // namespace tessera::kernels::cuda::hopper
