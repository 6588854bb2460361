// The machine's C BLAS, opened at run time: the build needs none, and a machine without one loses the
// baseline only.
#pragma once

#include <cstdint>
#include <string>

namespace tessera::kernels::cpu {

// Thread-safe. Calls may run concurrently: each runs on the thread that made it.
class Blas {
 public:
  // The process's BLAS, opened by the first call; null, and the reason in *error, when there is none.
  static const Blas* Get(const char** error);

  // The library that was opened, and its version where it says: "libopenblas.so.0 (OpenBLAS 0.3.21 ...)".
  const char* name() const { return name_.c_str(); }

  // C (m, n) = alpha * A (m, k) * op(B) + beta * C, all row-major; op(B) is (k, n), so B is stored (n, k)
  // when `transpose_b`. Every extent and leading dimension is in [1, INT32_MAX].
  void Sgemm(bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
             const float* b, int64_t ldb, float beta, float* c, int64_t ldc) const;

 private:
  // The two entry points that are used, with CBLAS's enumerations as the ints they are in its ABI.
  using SgemmFn = void (*)(int layout, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                           const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
  using SgemvFn = void (*)(int layout, int transpose, int m, int n, float alpha, const float* a, int lda,
                           const float* x, int incx, float beta, float* y, int incy);

  Blas() = default;
  // Empty on success, else why `library` cannot serve.
  std::string Open(const char* library);

  std::string name_;
  SgemmFn sgemm_ = nullptr;
  SgemvFn sgemv_ = nullptr;
};

}  // namespace tessera::kernels::cpu
