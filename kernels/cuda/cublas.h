// NVIDIA's cuBLAS, opened at run time: nothing links it, and a machine without it loses cuda_standard only.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "tessera/attention.h"

struct cublasContext;

namespace tessera::kernels::cuda {

// Matrices of one dtype: element (row, column) of matrix `b` at data[b * batch_stride + row * row_stride +
// column]. fp32, fp16 or bf16.
struct GemmMatrices {
  const void* data;
  int64_t row_stride, batch_stride;
  tessera_dtype dtype;
};

// c (rows, columns) = a (rows, depth) * op(b), `batches` times, and with `accumulate` c += that; op(b) is
// (depth, columns), so b is stored (columns, depth) when `transpose_b`. Sums are taken in fp32, in true fp32
// for fp32 factors. a and b share a dtype; c has it too, or is fp32. Extents are positive; a row stride is in
// [row length, INT32_MAX].
struct StridedGemm {
  int32_t rows, columns, depth, batches;
  bool transpose_b, accumulate;
  GemmMatrices a, b, c;
};

// cuBLAS's handle for one device. Gives the same bits for the same call every time.
class Cublas {
 public:
  static constexpr size_t kWorkspaceAlignment = 256;

  // For the current device, which must be current for every call on it, and for the destructor. Null, and the
  // reason in *error, where the library or the handle cannot be had.
  static std::unique_ptr<Cublas> Create(std::string* error);
  // Likewise, from the first of `libraries` (null-terminated) that opens.
  static std::unique_ptr<Cublas> CreateFrom(const char* const* libraries, std::string* error);
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  ~Cublas();

  // "libcublas.so.13 (13.1.0)"
  const std::string& name() const { return name_; }

  // Calls of one thread on one stream, made while the object lives; other threads wait for it.
  class Calls {
   public:
    // `workspace`: aligned to kWorkspaceAlignment, the calls' own until their work is done. cuBLAS then
    // allocates nothing.
    Calls(Cublas& blas, cudaStream_t stream, void* workspace, size_t workspace_bytes);

    // Queues the product. False when cuBLAS refused it, or an earlier call.
    bool Gemm(const StridedGemm& gemm);

    // Null, or what cuBLAS says of the first failure; static storage.
    const char* error() const { return error_; }

   private:
    bool Check(int status);

    Cublas& blas_;
    std::lock_guard<std::mutex> lock_;
    const char* error_ = nullptr;
  };

 private:
  struct Library;  // the entry points; the library itself stays open as long as the process

  Cublas(std::unique_ptr<const Library> library, cublasContext* handle, std::string name);

  const std::unique_ptr<const Library> library_;
  cublasContext* const handle_;
  const std::string name_;
  std::mutex mutex_;
};

}  // namespace tessera::kernels::cuda
