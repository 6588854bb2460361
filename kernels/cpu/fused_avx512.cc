#include "kernels/cpu/simd_avx512.inc.h"
// The vector type comes first.
#include "kernels/cpu/fused_f32_kernel.inc.h"

namespace tessera::kernels::cpu {

constinit const FusedKernel kFusedAvx512 = F32Kernel();

}  // namespace tessera::kernels::cpu
