// Instruction sets that the CPU kernels are built for, and what this processor has.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera::kernels::cpu {

// In rising order; each includes those before it.
enum class Isa { kBaseline, kAvx2, kAvx512, kAvx512Bf16, kAmxBf16 };

// "baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16".
std::string_view IsaName(Isa isa);
// False when `name` is none of these.
bool ParseIsa(std::string_view name, Isa* isa);

// Processor, operating system (XSAVE state; for AMX the arch_prctl permission, asked for here) and build all
// have it.
bool IsaUsable(Isa isa);
Isa BestIsa();
std::vector<Isa> UsableIsas();

}  // namespace tessera::kernels::cpu
