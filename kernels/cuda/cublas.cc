#include "kernels/cuda/cublas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <utility>

namespace tessera::kernels::cuda {
namespace {

// In order of preference: the version that the headers are of, the one before, and whatever is installed for
// development. The dynamic linker looks in LD_LIBRARY_PATH and its cache.
constexpr const char* kLibraries[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so", nullptr};

template <typename Function>
bool Find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  return *function != nullptr;
}

cudaDataType TypeOf(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      return CUDA_R_16F;
    case TESSERA_DTYPE_BF16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

// "13.1.0" of 130100.
std::string VersionText(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

struct Cublas::Library {
  cublasStatus_t (*create)(cublasHandle_t*);
  cublasStatus_t (*destroy)(cublasHandle_t);
  cublasStatus_t (*get_version)(cublasHandle_t, int*);
  const char* (*status_string)(cublasStatus_t);
  cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
  cublasStatus_t (*set_workspace)(cublasHandle_t, void*, size_t);
  cublasStatus_t (*set_math_mode)(cublasHandle_t, cublasMath_t);
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m,
                         int n, int k, const void* alpha, const void* a, cudaDataType a_type, int lda,
                         long long a_stride, const void* b, cudaDataType b_type, int ldb, long long b_stride,
                         const void* beta, void* c, cudaDataType c_type, int ldc, long long c_stride,
                         int batches, cublasComputeType_t compute, cublasGemmAlgo_t algorithm);

  // Empty on success, else why `name` cannot serve.
  std::string Open(const char* name) {
    void* const library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return dlerror();
    if (Find(library, "cublasCreate_v2", &create) && Find(library, "cublasDestroy_v2", &destroy) &&
        Find(library, "cublasGetVersion_v2", &get_version) &&
        Find(library, "cublasGetStatusString", &status_string) &&
        Find(library, "cublasSetStream_v2", &set_stream) &&
        Find(library, "cublasSetWorkspace_v2", &set_workspace) &&
        Find(library, "cublasSetMathMode", &set_math_mode) &&
        Find(library, "cublasGemmStridedBatchedEx", &gemm)) {
      return "";
    }
    dlclose(library);
    return std::string(name) + ": lacks an entry point";
  }
};

std::unique_ptr<Cublas> Cublas::Create(std::string* error) { return CreateFrom(kLibraries, error); }

std::unique_ptr<Cublas> Cublas::CreateFrom(const char* const* libraries, std::string* error) {
  *error = "cuBLAS could not be opened: ";
  for (const char* const* name = libraries; *name != nullptr; ++name) {
    auto library = std::make_unique<Library>();
    const std::string reason = library->Open(*name);
    if (!reason.empty()) {
      *error += (name == libraries ? "" : "; ") + reason;
      continue;
    }
    cublasHandle_t handle = nullptr;
    const cublasStatus_t status = library->create(&handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
      *error = std::string(*name) + ": no handle: " + library->status_string(status);
      return nullptr;
    }
    int version = 0;
    library->get_version(handle, &version);
    // No TF32, and partial sums of 16-bit products stay in fp32.
    library->set_math_mode(
        handle,
        static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    error->clear();
    std::string text = std::string(*name) + " (" + VersionText(version) + ")";
    return std::unique_ptr<Cublas>(new Cublas(std::move(library), handle, std::move(text)));
  }
  return nullptr;
}

Cublas::Cublas(std::unique_ptr<const Library> library, cublasContext* handle, std::string name)
    : library_(std::move(library)), handle_(handle), name_(std::move(name)) {}

Cublas::~Cublas() { library_->destroy(handle_); }

Cublas::Calls::Calls(Cublas& blas, cudaStream_t stream, void* workspace, size_t workspace_bytes)
    : blas_(blas), lock_(blas.mutex_) {
  // In this order: setting the stream gives cuBLAS its own workspace back.
  if (!Check(blas_.library_->set_stream(blas_.handle_, stream))) return;
  if (workspace_bytes > 0) Check(blas_.library_->set_workspace(blas_.handle_, workspace, workspace_bytes));
}

bool Cublas::Calls::Check(int status) {
  if (status != CUBLAS_STATUS_SUCCESS && error_ == nullptr) {
    error_ = blas_.library_->status_string(static_cast<cublasStatus_t>(status));
  }
  return error_ == nullptr;
}

bool Cublas::Calls::Gemm(const StridedGemm& g) {
  if (error_ != nullptr) return false;
  constexpr float kAlpha = 1;
  const float beta = g.accumulate ? 1 : 0;  // 0: what was in c is not read
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  // cuBLAS reads matrices by columns: ours are its transposes, and c^T = op(b)^T a^T.
  return Check(blas_.library_->gemm(
      blas_.handle_, g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, g.columns, g.rows, g.depth,
      &kAlpha, g.b.data, TypeOf(g.b.dtype), narrow(g.b.row_stride), g.b.batch_stride, g.a.data,
      TypeOf(g.a.dtype), narrow(g.a.row_stride), g.a.batch_stride, &beta, const_cast<void*>(g.c.data),
      TypeOf(g.c.dtype), narrow(g.c.row_stride), g.c.batch_stride, g.batches,
      g.a.dtype == TESSERA_DTYPE_FP32 ? CUBLAS_COMPUTE_32F_PEDANTIC : CUBLAS_COMPUTE_32F,
      CUBLAS_GEMM_DEFAULT));
}

}  // namespace tessera::kernels::cuda
