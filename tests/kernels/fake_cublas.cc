// A stand-in for cuBLAS, for a machine without a GPU: the entry points that Cublas opens, working on host
// memory, fp32 only. Refuses what cuBLAS would.
#include <cublas_v2.h>

namespace {

// Column-major, as cuBLAS has it.
float At(const float* matrix, int stride, bool transposed, int row, int column) {
  return transposed ? matrix[static_cast<long long>(row) * stride + column]
                    : matrix[static_cast<long long>(column) * stride + row];
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  static int fake;
  *handle = reinterpret_cast<cublasHandle_t>(&fake);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
  *version = 130205;
  return CUBLAS_STATUS_SUCCESS;
}

const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE" : "CUBLAS_STATUS_OTHER";
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t transpose_a,
                                          cublasOperation_t transpose_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType a_type, int lda,
                                          long long a_stride, const void* b, cudaDataType b_type, int ldb,
                                          long long b_stride, const void* beta, void* c, cudaDataType c_type,
                                          int ldc, long long c_stride, int batches, cublasComputeType_t,
                                          cublasGemmAlgo_t) {
  const bool a_transposed = transpose_a == CUBLAS_OP_T, b_transposed = transpose_b == CUBLAS_OP_T;
  if (m < 1 || n < 1 || k < 1 || batches < 1 || lda < (a_transposed ? k : m) ||
      ldb < (b_transposed ? n : k) || ldc < m || a_type != CUDA_R_32F || b_type != CUDA_R_32F ||
      c_type != CUDA_R_32F) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (int batch = 0; batch < batches; ++batch) {
    const float* const a_matrix = static_cast<const float*>(a) + batch * a_stride;
    const float* const b_matrix = static_cast<const float*>(b) + batch * b_stride;
    float* const c_matrix = static_cast<float*>(c) + batch * c_stride;
    for (int column = 0; column < n; ++column) {
      for (int row = 0; row < m; ++row) {
        float sum = 0;
        for (int d = 0; d < k; ++d) {
          sum += At(a_matrix, lda, a_transposed, row, d) * At(b_matrix, ldb, b_transposed, d, column);
        }
        float& element = c_matrix[static_cast<long long>(column) * ldc + row];
        const float scale = *static_cast<const float*>(beta);
        element = *static_cast<const float*>(alpha) * sum + (scale == 0 ? 0 : scale * element);
      }
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
