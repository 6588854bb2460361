// Turns V tiles into V^T tiles: the right factor of an fp8 product has the summed index innermost.
#pragma once

#include "kernels/cuda/hopper/fp8_tiles.cuh"

namespace tessera::kernels::cuda::hopper {

// One warp of the producer warpgroup; kTransposers of them share each tile.
//
// V^T does not keep the order of the keys. Of each 16 keys position 4 t + i holds key 2 t + i, for i < 2, or
// 8 + 2 t + i - 2: the scores that thread t of a quad has, in the order in which it has them, are then its
// part of P as a left factor. It is also the order that falls out here: a transposing load of pairs of
// columns gives a thread two keys of two columns, and the 8 keys behind those in another register.
template <Fp8 Config>
class Transposer {
 public:
  __device__ Transposer(const HopperProblem& launch, Shared<Config>& shared, int part)
      : problem(launch.problem), shared(shared), part(part) {}

  __device__ void Run() {
    for (;;) {
      ptx::Wait(shared.posting_full[posting_at.index], posting_at.parity);
      Posting& posting = shared.posting(posting_at.index);
      if (!posting.valid) return;
      // A copy: the consumers give the posting back once they have the last tile.
      const KeyWalk walk = posting.walk;
      for (int32_t tile = walk.end_tile - 1; tile >= walk.first_tile; --tile) {
        ptx::Wait(shared.v_full[v_at.index], v_at.parity);
        ptx::Wait(shared.vt_empty[vt_at.index], vt_at.parity ^ 1);
        if (!IsInspected<Config>(problem, walk, tile)) {
          Transpose<false>();
        } else if (Transpose<true>()) {
          atomicMin(&posting.spoilt_begin, tile * Config::kTileKv);
          atomicMax(&posting.spoilt_end, (tile + 1) * Config::kTileKv);
        }
        Release();
      }
      posting_at.Advance();
    }
  }

 private:
  // A step is 32 keys of 16 columns, a chunk. A transposer has some chunks, of all keys.
  static constexpr uint32_t kChunks = Config::kDimV / 16 / kTransposers;
  static constexpr uint32_t kBatch = kChunks < 4 ? kChunks : 4;  // steps that overlap
  static_assert(kChunks % kBatch == 0 && (8 % kChunks == 0 || kChunks % 8 == 0));

  const DeviceProblem& problem;
  Shared<Config>& shared;
  int part;
  RingPosition<Config::kPostings> posting_at;
  RingPosition<Config::kValueStages> v_at;
  RingPosition<Config::kTransposedStages> vt_at;

  // With kClear NaNs become 0, as a hidden key's are to be, whose P is 0; returns whether there were any. The
  // epilogue adds them to the rows that see them.
  template <bool kClear>
  __device__ __forceinline__ bool Transpose() {
    const uint32_t lane = threadIdx.x % 32, r = lane % 8, first_chunk = part * kChunks;
    // The lane's row of a load: key `lane` of 32.
    uint32_t from = ptx::SharedAddress(shared.v[v_at.index].data) + first_chunk / 8 * Config::kTileKv * 128 +
                    lane * 128 + ((first_chunk ^ r) % 8 << 4);
    // Its row of a store: of the even columns in the first half of the 16 and the odd ones in the second,
    // lanes with `other` the reverse, so that eight rows lie in different banks.
    const uint32_t other = lane / 8 % 2, upper = lane / 16;
    const uint32_t column = 2 * r + ((r >= 4) ^ other);
    const uint32_t to = ptx::SharedAddress(shared.vt[vt_at.index].data) + (first_chunk * 16 + column) * 128 +
                        ((column ^ upper) % 8 << 4);
    // Of the bytes {key 0: column 0, 1; key 1: column 0, 1} of two registers.
    const uint32_t even = lane < 16 ? 0x6420 : 0x7531, odd = lane < 16 ? 0x7531 : 0x6420;
    uint32_t nans = 0;
#pragma unroll 1
    for (uint32_t keys = 0; keys < Config::kTileKv / 32; ++keys) {
      const uint32_t row = (to ^ keys % 4 << 5) + keys / 4 * Config::kDimV * 128;
#pragma unroll
      for (uint32_t batch = 0; batch < kChunks; batch += kBatch) {
        uint32_t x[kBatch][4];  // of keys 0..7, 8..15, 16..23, 24..31
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          const uint32_t chunk = batch + i;
          ptx::LoadMatricesTransposed((from ^ chunk % 8 << 4) + chunk / 8 * Config::kTileKv * 128, x[i]);
        }
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          if constexpr (kClear) {
#pragma unroll
            for (uint32_t& bytes : x[i]) nans |= ClearNans(bytes);
          }
          const uint32_t transposed[4] = {
              __byte_perm(x[i][0], x[i][1], even), __byte_perm(x[i][0], x[i][1], odd),
              __byte_perm(x[i][2], x[i][3], even), __byte_perm(x[i][2], x[i][3], odd)};
          ptx::StoreMatrices(row + (batch + i) * 16 * 128, transposed);
        }
      }
      from += 32 * 128;
    }
    return kClear && __any_sync(~0u, nans != 0);
  }

  // Of the four elements those that are NaN, 0x7f and 0xff, become 0. Returns a bit for each.
  __device__ static uint32_t ClearNans(uint32_t& bytes) {
    const uint32_t nans = ((bytes & 0x7f7f7f7f) + 0x01010101) & 0x80808080;
    bytes &= ~((nans >> 7) * 0xff);
    return nans;
  }

  __device__ void Release() {
    ptx::FenceAsyncProxy();  // the stores are for the tensor cores
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      ptx::Arrive(shared.v_empty[v_at.index]);
      ptx::Arrive(shared.vt_full[vt_at.index]);
    }
    v_at.Advance();
    vt_at.Advance();
  }
};

}  // namespace tessera::kernels::cuda::hopper
