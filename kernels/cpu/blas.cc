#include "kernels/cpu/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <utility>

#include "kernels/cpu/isa.h"

namespace tessera::kernels::cpu {
namespace {

// In order of preference. A reference BLAS comes last: it works, and its name in the plan says what it is.
constexpr const char* kLibraries[] = {"libopenblas.so.0", "libopenblas.so", "libblas.so.3"};

// CBLAS_LAYOUT and CBLAS_TRANSPOSE values, fixed by the CBLAS interface.
constexpr int kRowMajor = 101;
constexpr int kNoTranspose = 111;
constexpr int kTranspose = 112;

// OpenBLAS picks its kernels by processor model, and for a model it does not know it falls back to SSE3, a
// fifth of the speed. So we name the family whose instructions this processor has, unless the user has named
// one.
void NameCoreType() {
  const char* const family = IsaUsable(Isa::kAvx512) ? "SkylakeX"
                             : IsaUsable(Isa::kAvx2) ? "Haswell"
                                                     : nullptr;
  if (family != nullptr) setenv("OPENBLAS_CORETYPE", family, /*overwrite=*/0);
}

template <typename Function>
Function Symbol(void* handle, const char* name) {
  return reinterpret_cast<Function>(dlsym(handle, name));
}

}  // namespace

std::string Blas::Open(const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return dlerror();
  sgemm_ = Symbol<SgemmFn>(handle, "cblas_sgemm");
  sgemv_ = Symbol<SgemvFn>(handle, "cblas_sgemv");
  if (sgemm_ == nullptr || sgemv_ == nullptr) {
    dlclose(handle);
    return std::string(library) + ": has no cblas_sgemm or no cblas_sgemv";
  }
  // Our pool makes the parallelism; a call that forked again would oversubscribe the cores.
  if (auto set_num_threads = Symbol<void (*)(int)>(handle, "openblas_set_num_threads")) set_num_threads(1);
  name_ = library;
  if (auto get_config = Symbol<char* (*)()>(handle, "openblas_get_config")) {
    name_ += std::string(" (") + get_config() + ")";
  }
  return "";
}

const Blas* Blas::Get(const char** error) {
  struct Opened {
    std::unique_ptr<const Blas> blas;
    std::string error;
  };
  static const Opened* const opened = [] {
    NameCoreType();
    auto* result = new Opened;  // lives as long as the process, as the library does
    for (const char* library : kLibraries) {
      std::unique_ptr<Blas> blas(new Blas);
      const std::string error = blas->Open(library);
      if (error.empty()) {
        result->blas = std::move(blas);
        return result;
      }
      result->error += (result->error.empty() ? "no BLAS could be opened: " : "; ") + error;
    }
    return result;
  }();
  *error = opened->error.c_str();
  return opened->blas.get();
}

void Blas::Sgemm(bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c, int64_t ldc) const {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  if (m == 1) {
    // One row (a decode step): sgemv reads B once, where sgemm would pack it first.
    // Some versions scale y by beta = 0 instead of overwriting it, which keeps a NaN.
    if (beta == 0) std::fill(c, c + n, 0.0f);
    const int64_t rows = transpose_b ? n : k, columns = transpose_b ? k : n;
    sgemv_(kRowMajor, transpose_b ? kNoTranspose : kTranspose, narrow(rows), narrow(columns), alpha, b,
           narrow(ldb), a, 1, beta, c, 1);
    return;
  }
  sgemm_(kRowMajor, kNoTranspose, transpose_b ? kTranspose : kNoTranspose, narrow(m), narrow(n), narrow(k),
         alpha, a, narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
}

}  // namespace tessera::kernels::cpu
