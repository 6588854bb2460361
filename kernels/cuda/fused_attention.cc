// The dispatch: which compiled kernel a problem runs on.
#include "kernels/cuda/fused_attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/fused_kernel.h"
#include "kernels/cuda/hopper/hopper_launch.h"
#include "kernels/cuda/row_tiling.h"

namespace tessera::kernels::cuda {
namespace {

// Below this a scale can be turned to base 2 without overflow.
constexpr float kLargestPlainScale = 1e38f;
constexpr float kLargestPlainSlope = 1e15f, kSmallestAlibiScale = 1e-20f;
// What CUDA itself takes of a block's shared memory.
constexpr int64_t kReservedSharedBytes = 1024;
// Of the L2 that the keys and values may take which blocks share; Q, O and what is on its way need the rest.
constexpr int64_t kL2Share = 2;
// Code for 9.0a runs on 9.0 alone.
constexpr int32_t kHopperCapability = 90;

struct Families {
  FusedKernels hopper, portable;
};

Families KernelsFor(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      return {{nullptr, nullptr}, Fp32Kernels()};
    case TESSERA_DTYPE_FP16:
      return {HopperFp16Kernels(), Fp16Kernels()};
    case TESSERA_DTYPE_BF16:
      return {HopperBf16Kernels(), Bf16Kernels()};
    case TESSERA_DTYPE_FP8_E4M3:
      return {HopperFp8Kernels(), {nullptr, nullptr}};
    default:
      return {{nullptr, nullptr}, {nullptr, nullptr}};
  }
}

// Whether the kernels for dense masks read them quickly.
bool AreMasksAligned(const tessera_attention_problem& p) {
  return MaskAlignment(p, /*with_data=*/false) >= 4;
}

// The narrowest of the kinds of logits that hold the problem's. (With a positive scale the largest score is
// the largest logit, and the softmax takes the scale along for nothing.)
Logits LogitsOf(const tessera_attention_problem& p) {
  const bool plain_scale = p.scale > 0 && p.scale < kLargestPlainScale;
  const bool softcap = p.softcap > 0, alibi = p.alibi_slopes != nullptr,
             mask = p.mask_kind != TESSERA_MASK_NONE;
  if (mask) return softcap || alibi || !AreMasksAligned(p) ? Logits::kAny : Logits::kDenseMask;
  if (!plain_scale || (softcap && alibi)) return Logits::kAny;
  if (softcap && !(p.softcap < kLargestPlainScale && p.scale / p.softcap < kLargestPlainScale))
    return Logits::kAny;
  // The kernels for ALiBi divide slopes by the scale.
  if (alibi && !(p.scale > kSmallestAlibiScale)) return Logits::kAny;
  if (alibi && !std::all_of(p.alibi_slopes, p.alibi_slopes + p.num_q_heads,
                            [](float slope) { return std::abs(slope) < kLargestPlainSlope; })) {
    return Logits::kAny;
  }
  return softcap ? Logits::kSoftCap : alibi ? Logits::kAlibi : Logits::kPlain;
}

RowTiling TilingOf(const FusedKernel& kernel, const tessera_attention_problem& problem) {
  return kernel.family == KernelFamily::kHopper ? PackRows(problem, kernel.tile_q)
                                                : WholeGroups(problem, kernel.tile_q);
}

// Tiles of keys that a tile of rows walks: those of its first query's first key to its last query's last.
int64_t KeyTiles(const tessera_sequence& s, int64_t first_query, int64_t last_query, int32_t tile_kv) {
  const int64_t begin =
      s.window_left < 0 ? 0 : std::max<int64_t>(first_query + s.diagonal_offset - s.window_left, 0);
  const int64_t end =
      s.window_right < 0 ? s.kv_len : std::min(last_query + s.diagonal_offset + s.window_right + 1, s.kv_len);
  return begin >= end ? 1 : (end - 1) / tile_kv - begin / tile_kv + 1;
}

// What the launch costs on one multiprocessor. Of long sequences the tiles of rows are sampled.
double EstimateMicroseconds(const FusedKernel& kernel, const tessera_attention_problem& p) {
  constexpr int64_t kSamples = 16;
  const RowTiling tiling = TilingOf(kernel, p);
  const int64_t tile_queries = std::max(tiling.tile_rows / tiling.rows_per_query, 1);
  double estimate = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) {
    const tessera_sequence& s = p.sequences[n];
    const int64_t tiles = tiling.Tiles(s.q_len), samples = std::min(tiles, kSamples);
    int64_t key_tiles = 0;
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t first_query = (tiles * (2 * i + 1) / (2 * samples)) * tile_queries;
      key_tiles +=
          KeyTiles(s, first_query, std::min(first_query + tile_queries, s.q_len) - 1, kernel.tile_kv);
    }
    if (samples == 0) continue;
    estimate += static_cast<double>(tiles) *
                (kernel.row_tile_us +
                 kernel.key_tile_us * static_cast<double>(key_tiles) / static_cast<double>(samples));
  }
  return estimate * static_cast<double>(tiling.RowHeads(p));
}

// Of the kernels for `logits` and the narrowest head dims that hold the problem, the one that is estimated
// quickest.
const FusedKernel* FindHopperKernel(const tessera_attention_problem& p, const FusedKernels& kernels,
                                    Logits logits) {
  const FusedKernel* found = nullptr;
  double found_estimate = 0;
  for (const FusedKernel& kernel : kernels) {
    if (kernel.head_dim_qk < p.head_dim_qk || kernel.head_dim_v < p.head_dim_v || kernel.logits != logits)
      continue;
    if (kernel.key_tile_us == 0) return found != nullptr ? found : &kernel;
    if (found != nullptr &&
        (kernel.head_dim_qk != found->head_dim_qk || kernel.head_dim_v != found->head_dim_v)) {
      return found;
    }
    const double estimate = EstimateMicroseconds(kernel, p);
    if (found == nullptr || estimate < found_estimate) {
      found = &kernel;
      found_estimate = estimate;
    }
  }
  return found;
}

// Where none fits the shared memory that blocks can have on this GPU, the one that comes closest.
const FusedKernel* FindPortableKernel(const tessera_attention_problem& p, const FusedKernels& kernels,
                                      const DeviceTraits& traits) {
  const Logits logits = LogitsOf(p) == Logits::kPlain ? Logits::kPlain : Logits::kAny;
  const FusedKernel* found = nullptr;
  for (const FusedKernel& kernel : kernels) {
    if (kernel.head_dim_qk < p.head_dim_qk || kernel.head_dim_v < p.head_dim_v || kernel.logits != logits)
      continue;
    if (kernel.shared_memory_bytes <= traits.shared_memory_per_block) return &kernel;
    if (found == nullptr || kernel.shared_memory_bytes < found->shared_memory_bytes) found = &kernel;
  }
  return found;
}

// The kernel for the narrowest head dims that hold the problem, by preference; null when there is none.
const FusedKernel* FindKernel(const tessera_attention_problem& p, const DeviceTraits& traits) {
  const Families families = KernelsFor(p.q.dtype);
  if (traits.compute_capability == kHopperCapability) {
    const FusedKernel* kernel = FindHopperKernel(p, families.hopper, LogitsOf(p));
    if (kernel == nullptr) kernel = FindHopperKernel(p, families.hopper, Logits::kAny);
    if (kernel != nullptr) return kernel;
  }
  return FindPortableKernel(p, families.portable, traits);
}

}  // namespace

FusedChoice ChooseFused(const tessera_attention_problem& problem, const DeviceTraits& traits) {
  FusedChoice choice{};
  const FusedKernel* const kernel = FindKernel(problem, traits);
  if (kernel == nullptr && problem.q.dtype == TESSERA_DTYPE_FP8_E4M3) {
    choice.refusal = "fp8 on compute capability " + std::to_string(traits.compute_capability / 10) + "." +
                     std::to_string(traits.compute_capability % 10) + " with head dims " +
                     std::to_string(problem.head_dim_qk) + " and " + std::to_string(problem.head_dim_v) +
                     ", expected 9.0 and at most " + std::to_string(kFusedMaxHeadDim);
    return choice;
  }
  if (kernel == nullptr) {
    choice.refusal = "no kernel for head dims " + std::to_string(problem.head_dim_qk) + " and " +
                     std::to_string(problem.head_dim_v) + ", expected at most " +
                     std::to_string(kFusedMaxHeadDim) + ", of this dtype";
    return choice;
  }
  if (kernel->shared_memory_bytes > traits.shared_memory_per_block) {
    choice.refusal = std::to_string(kernel->shared_memory_bytes) +
                     " bytes of shared memory for the tiles of this head dim, expected at most " +
                     std::to_string(traits.shared_memory_per_block);
    return choice;
  }
  choice.refusal = IndexLimit(problem, TilingOf(*kernel, problem));
  if (!choice.refusal.empty()) return choice;
  choice.kernel = kernel->name;
  choice.tile_q = kernel->tile_q;
  choice.tile_kv = kernel->tile_kv;
  choice.stages = kernel->stages;
  choice.shared_memory_bytes = kernel->shared_memory_bytes;
  const int64_t fit =
      traits.shared_memory_per_multiprocessor / (kernel->shared_memory_bytes + kReservedSharedBytes);
  choice.blocks_per_multiprocessor =
      static_cast<int32_t>(std::clamp<int64_t>(fit, 1, kernel->blocks_per_multiprocessor));
  choice.workspace_bytes = TableBytes(problem);
  const bool is_hopper = kernel->family == KernelFamily::kHopper;
  choice.walked_bytes = is_hopper ? hopper::WalkedBytes(problem, traits) : traits.l2_bytes / kL2Share;
  choice.held_tiles = kernel->held_tiles;
  return choice;
}

cudaError_t FusedAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                           void* workspace, cudaStream_t stream) {
  const FusedKernel* const kernel = FindKernel(problem, traits);
  if (kernel == nullptr) return cudaErrorInvalidValue;
  const RowTiling tiling = TilingOf(*kernel, problem);
  if (kernel->family == KernelFamily::kHopper) {
    return hopper::Launch(*kernel, problem, tiling, traits, workspace, stream);
  }
  DeviceProblem device;
  cudaError_t error =
      MakeDeviceProblem(problem, tiling, traits.l2_bytes / kL2Share, workspace, stream, &device);
  if (error != cudaSuccess || device.num_blocks() == 0) return error;
  error = cudaFuncSetAttribute(kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kernel->shared_memory_bytes);
  if (error != cudaSuccess) return error;
  void* arguments[] = {&device};
  return cudaLaunchKernel(kernel->function, dim3(static_cast<unsigned>(device.num_blocks())),
                          dim3(kernel->threads), arguments, static_cast<size_t>(kernel->shared_memory_bytes),
                          stream);
}

cudaError_t CheckFusedKernels() {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error != cudaSuccess) return error;
  for (const tessera_dtype dtype :
       {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16, TESSERA_DTYPE_FP8_E4M3}) {
    const Families families = KernelsFor(dtype);
    for (const FusedKernels& kernels : {families.portable, families.hopper}) {
      if (kernels.begin() == kernels.end()) continue;
      const FusedKernel& kernel = *kernels.begin();
      if (kernel.family == KernelFamily::kHopper && major * 10 + minor != kHopperCapability) continue;
      cudaFuncAttributes attributes;
      error = cudaFuncGetAttributes(&attributes, kernel.function);
      if (error != cudaSuccess) return error;
      if (attributes.maxThreadsPerBlock < kernel.threads) return cudaErrorLaunchOutOfResources;
    }
  }
  return cudaSuccess;
}

}  // namespace tessera::kernels::cuda
