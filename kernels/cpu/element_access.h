// Reading and writing a problem's tensors as plain rows of float or double, for standard attention.
#pragma once

#include <cstdint>

#include "tessera/attention.h"

namespace tessera::kernels::cpu::standard {

// Reads `count` consecutive elements of (token, head) of `tensor` (fp32, fp16, bf16, or fp8 without its
// scale), exactly.
void LoadRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, float* row);
void LoadRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, double* row);

// Writes them, each rounded once to nearest even; overflow becomes infinity.
void StoreRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, const float* row);
void StoreRow(const tessera_tensor& tensor, int64_t token, int64_t head, int64_t count, const double* row);

// Reads elements first, first + stride, ... of an array of `dtype` (fp32, fp16 or bf16).
void LoadStrided(const void* data, tessera_dtype dtype, int64_t first, int64_t stride, int64_t count,
                 float* row);

// What the elements of (sequence, head) of an fp8 tensor are multiplied by; 1 for other tensors.
double ScaleOf(const tessera_scales& scales, int64_t sequence, int64_t head);

}  // namespace tessera::kernels::cpu::standard
