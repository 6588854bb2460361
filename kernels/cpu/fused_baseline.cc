#include "kernels/cpu/simd_baseline.inc.h"
// The vector type comes first.
#include "kernels/cpu/fused_f32_kernel.inc.h"

namespace tessera::kernels::cpu {

constinit const FusedKernel kFusedBaseline = F32Kernel();

}  // namespace tessera::kernels::cpu
