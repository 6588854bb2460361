#include "backend/cpu/cpu_backends.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "backend/core/error.h"
#include "backend/core/usable_cores.h"
#include "backend/cpu/cpu_device.h"
#include "backend/cpu/fused_backend.h"
#include "backend/cpu/standard_backend.h"
#include "backend/cpu/unfused_backend.h"
#include "kernels/cpu/blas.h"

namespace tessera {
namespace {

using kernels::cpu::Isa;

constexpr int kMaxThreads = 4096;

absl::StatusOr<Isa> ChooseIsa(const CpuOptions& options) {
  if (!options.isa) return kernels::cpu::BestIsa();
  if (kernels::cpu::IsaUsable(*options.isa)) return *options.isa;
  const std::string usable = absl::StrJoin(kernels::cpu::UsableIsas(), ", ", [](std::string* out, Isa isa) {
    out->append(kernels::cpu::IsaName(isa));
  });
  const std::string actual(kernels::cpu::IsaName(*options.isa));
  return MakeError(
      absl::StatusCode::kFailedPrecondition,
      absl::StrCat("cpu: instruction set ", actual, " is not usable on this machine; usable: ", usable),
      {.reason = "ISA_UNUSABLE",
       .metadata = {{"expected", absl::StrCat("one of ", usable)}, {"actual", actual}},
       .retry_after = std::nullopt});
}

// noexcept: a body that throws against its contract ends the process here, on whichever thread it ran.
void ParallelFor(tessera_stream* stream, int64_t num_tasks,
                 void (*body)(void* context, int64_t task, int32_t worker), void* context) noexcept {
  if (num_tasks <= 0) return;
  CpuDevice::PoolOf(stream).ParallelFor(num_tasks,
                                        [=](int64_t task, int worker) { body(context, task, worker); });
}

int32_t NumWorkers(tessera_stream* stream) { return CpuDevice::PoolOf(stream).num_workers(); }

}  // namespace

absl::StatusOr<Device*> RegisterCpuBackends(const CpuOptions& options, BackendRegistry& registry) {
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return InvalidArgument("THREAD_COUNT_INVALID", "threads", absl::StrCat("0..", kMaxThreads),
                           absl::StrCat(options.num_threads));
  }
  TESSERA_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(options));
  const int num_threads = options.num_threads > 0 ? options.num_threads : UsableCores();
  auto owned = std::make_unique<CpuDevice>(num_threads, std::string(kernels::cpu::IsaName(isa)));
  CpuDevice& device = *owned;
  registry.AddDevice(std::move(owned));

  TESSERA_RETURN_IF_ERROR(registry.Add(std::make_unique<CpuFusedBackend>(device, isa)));
  TESSERA_RETURN_IF_ERROR(registry.Add(std::make_unique<CpuStandardBackend>(device)));
  const char* error = nullptr;
  if (const auto* blas = kernels::cpu::Blas::Get(&error)) {
    TESSERA_RETURN_IF_ERROR(registry.Add(std::make_unique<CpuUnfusedBackend>(device, *blas)));
  } else {
    registry.AddUnavailable({.name = "cpu_unfused",
                             .reason = MakeError(absl::StatusCode::kUnavailable, error,
                                                 {.reason = "BLAS_NOT_FOUND",
                                                  .metadata = {{"backend", "cpu_unfused"},
                                                               {"fix", "install libopenblas0-pthread"}},
                                                  .retry_after = std::nullopt})});
  }
  return &device;
}

const tessera_host& CpuHostServices() {
  static const tessera_host services{.struct_size = sizeof(tessera_host),
                                     .abi_version = TESSERA_ABI_VERSION,
                                     .parallel_for = ParallelFor,
                                     .num_workers = NumWorkers};
  return services;
}

}  // namespace tessera
