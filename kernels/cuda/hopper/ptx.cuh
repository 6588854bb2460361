// The PTX instructions of compute capability 9.0a that the Hopper kernels use, one to a function; the matrix
// products are in wgmma.cuh.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace tessera::kernels::cuda::ptx {

// An mbarrier in shared memory. A phase ends when all arrivals and all announced bytes have come; a waiter
// names the parity of the phase it waits for: 0 for the first.
using Barrier = uint64_t;

// mbarrier.init
__device__ inline void InitBarrier(Barrier& barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(&barrier)), "r"(arrivals)
               : "memory");
}

// fence.mbarrier_init: makes initialised barriers visible to the copy engine.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// mbarrier.arrive
__device__ inline void Arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(&barrier)) : "memory");
}

// mbarrier.arrive.expect_tx: arrives, and announces bytes that the copy engine will bring.
__device__ inline void ArriveExpecting(Barrier& barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(&barrier)),
               "r"(bytes)
               : "memory");
}

// mbarrier.try_wait.parity: sleeps a bounded while; whether the phase of that parity has ended.
__device__ inline bool TryWait(Barrier& barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(SharedAddress(&barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ inline void Wait(Barrier& barrier, uint32_t parity) {
  while (!TryWait(barrier, parity)) {
  }
}

// bar.sync: until `threads` have come to the named barrier `id` (1..15), this warp's included.
__device__ inline void SyncNamed(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// bar.arrive: comes to the named barrier without waiting.
__device__ inline void ArriveNamed(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// setmaxnreg.dec, setmaxnreg.inc: registers of each thread of the warpgroup from here on.
template <int kRegisters>
__device__ inline void ReleaseRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void ClaimRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// stmatrix.x4: four 8x8 matrices of 16-bit elements, of which lane l holds row l / 4, columns 2 * (l % 4) and
// the next. It gives the address of row l % 8 of matrix l / 8.
__device__ inline void StoreMatrices(uint32_t address, const uint32_t (&matrix)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(matrix[0]), "r"(matrix[1]), "r"(matrix[2]), "r"(matrix[3])
               : "memory");
}

// rcp.approx.ftz: 1 / x within an ulp.
__device__ inline float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// lg2.approx.ftz
__device__ inline float Log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// fma.rn.ftz.sat: x * y + z brought to [0, 1]; 0 if it is NaN.
__device__ inline float MultiplyAddSaturated(float x, float y, float z) {
  float sum;
  asm("fma.rn.ftz.sat.f32 %0, %1, %2, %3;" : "=f"(sum) : "f"(x), "f"(y), "f"(z));
  return sum;
}

// min.NaN.xorsign.abs: min(|x|, |y|) with the sign of x * y; NaN if either is.
__device__ inline float MinMagnitude(float x, float y) {
  float z;
  asm("min.NaN.xorsign.abs.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

// prefetch.global.L2
__device__ inline void PrefetchL2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// ld.shared.v4
__device__ inline void LoadShared(uint32_t address, uint32_t (&values)[4]) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(address)
               : "memory");
}

// fence.proxy.async: what this thread wrote to shared memory becomes visible to tensor cores and copy engine.
__device__ inline void FenceAsyncProxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// fma.rn.bf16x2, fma.rn.f16x2: a * b + c of packed pairs.
__device__ inline uint32_t MultiplyAddPair(__nv_bfloat16, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ inline uint32_t MultiplyAddPair(__half, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// prefetch.tensormap
__device__ inline void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// How long the L2 keeps what a copy brings: createpolicy's encodings for evict_first and evict_last.
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000;

// cp.async.bulk.tensor.3d: a box of the tensor, from coordinates (x, y, z), x innermost, into shared memory.
__device__ inline void CopyBox(void* destination, const CUtensorMap& map, Barrier& barrier, uint64_t policy,
                               int32_t x, int32_t y, int32_t z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(SharedAddress(destination)),
      "l"(&map), "r"(SharedAddress(&barrier)), "l"(policy), "r"(x), "r"(y), "r"(z)
      : "memory");
}

// cp.async.bulk.tensor.4d
__device__ inline void CopyBox(void* destination, const CUtensorMap& map, Barrier& barrier, uint64_t policy,
                               int32_t x, int32_t y, int32_t z, int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(SharedAddress(destination)),
      "l"(&map), "r"(SharedAddress(&barrier)), "l"(policy), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// cp.async.bulk.tensor.4d from shared memory to the tensor; what lies outside it is not written.
__device__ inline void StoreBox(const CUtensorMap& map, const void* source, int32_t x, int32_t y, int32_t z,
                                int32_t w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
      "r"(SharedAddress(source)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// cp.async.bulk.commit_group: this thread's stores so far are a group.
__device__ inline void CommitStores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// cp.async.bulk.wait_group.read: until all of this thread's groups have read shared memory.
__device__ inline void AwaitStoresRead() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

}  // namespace tessera::kernels::cuda::ptx
