#include "kernels/cpu/isa.h"

#include <array>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tessera::kernels::cpu {
namespace {

constexpr std::array<Isa, 5> kAllIsas = {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16,
                                         Isa::kAmxBf16};

#if defined(__x86_64__)

bool Bit(uint32_t word, int bit) { return (word >> bit) & 1; }

uint64_t ReadXcr0() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Linux hands out AMX tile data only to processes that ask (Documentation/arch/x86/xstate.rst).
bool RequestTileData() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

Isa DetectBest() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::kBaseline;
  const bool os_xsave = Bit(c, 27), fma = Bit(c, 12), f16c = Bit(c, 29);
  if (!os_xsave || !fma || !f16c) return Isa::kBaseline;
  const uint64_t xcr0 = ReadXcr0();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xE6, kTile = 0x60000;

  uint32_t b7, c7, d7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return Isa::kBaseline;
  if ((xcr0 & kYmm) != kYmm || !Bit(b7, 5)) return Isa::kBaseline;
  const bool avx512 = Bit(b7, 16) && Bit(b7, 17) && Bit(b7, 30) && Bit(b7, 31);  // F, DQ, BW, VL
  if ((xcr0 & kZmm) != kZmm || !avx512) return Isa::kAvx2;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !Bit(a, 5)) return Isa::kAvx512;
  const bool amx = Bit(d7, 24) && Bit(d7, 22);  // AMX-TILE, AMX-BF16
  if (!amx || (xcr0 & kTile) != kTile || !RequestTileData()) return Isa::kAvx512Bf16;
  return Isa::kAmxBf16;
}

#else

Isa DetectBest() { return Isa::kBaseline; }

#endif

}  // namespace

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kBaseline:
      return "baseline";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmxBf16:
      return "amx_bf16";
  }
  return "unknown";
}

bool ParseIsa(std::string_view name, Isa* isa) {
  for (Isa candidate : kAllIsas) {
    if (IsaName(candidate) == name) {
      *isa = candidate;
      return true;
    }
  }
  return false;
}

Isa BestIsa() {
  static const Isa best = DetectBest();
  return best;
}

bool IsaUsable(Isa isa) { return isa <= BestIsa(); }

std::vector<Isa> UsableIsas() {
  std::vector<Isa> usable;
  for (Isa isa : kAllIsas) {
    if (IsaUsable(isa)) usable.push_back(isa);
  }
  return usable;
}

}  // namespace tessera::kernels::cpu
