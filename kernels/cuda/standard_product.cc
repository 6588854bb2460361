#include "kernels/cuda/standard_product.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "kernels/cuda/element_bytes.h"

namespace tessera::kernels::cuda {
namespace {

// A dimension of the batch: how many, and how far the matrices lie apart, in elements.
struct Axis {
  int64_t count, a, b, c;
};

// One strided batch to each step along the outer axes.
struct Batches {
  int32_t rows;  // of a matrix
  int64_t a_row_stride, c_row_stride;
  Axis batch;
  std::array<Axis, 2> outer;
};

// The heads of a group share b, so their matrices a can be taken as one of group * rows rows where they lie
// evenly. That row stride; 0 where they do not.
int64_t FoldedStride(const WaveTensor& tensor, int64_t num_rows, int64_t row_length) {
  const int64_t stride = num_rows == 1                                        ? tensor.head_stride
                         : tensor.head_stride == num_rows * tensor.row_stride ? tensor.row_stride
                                                                              : 0;
  return stride > 0 && IsGemmMatrix(2, row_length, stride) ? stride : 0;
}

// A single row lies anywhere: its stride says nothing, and cuBLAS wants no less than the row's length.
int64_t RowStride(const WaveTensor& tensor, int64_t num_rows, int64_t row_length) {
  return num_rows == 1 ? row_length : tensor.row_stride;
}

Batches BatchesOf(const WaveProduct& p) {
  Batches batches{.rows = p.rows,
                  .a_row_stride = RowStride(p.a, p.rows, p.depth),
                  .c_row_stride = RowStride(p.c, p.rows, p.columns),
                  .batch = {.count = 1, .a = 0, .b = 0, .c = 0},
                  .outer = {}};
  int64_t members = p.group;
  const int64_t a_folded = FoldedStride(p.a, p.rows, p.depth),
                c_folded = FoldedStride(p.c, p.rows, p.columns);
  if (members > 1 && a_folded > 0 && c_folded > 0) {
    batches.rows = p.rows * p.group;
    batches.a_row_stride = a_folded;
    batches.c_row_stride = c_folded;
    members = 1;
  }

  // From the innermost. An axis whose steps go on where the one inside it ends lengthens that one.
  const Axis axes[] = {
      {members, p.a.head_stride, 0, p.c.head_stride},
      {p.num_kv_heads, p.group * p.a.head_stride, p.b.head_stride, p.group * p.c.head_stride},
      {p.sequences, p.a.sequence_stride, p.b.sequence_stride, p.c.sequence_stride}};
  std::array<Axis, 3> merged;
  merged.fill({.count = 1, .a = 0, .b = 0, .c = 0});
  size_t used = 0;
  for (const Axis& axis : axes) {
    if (axis.count == 1) continue;
    Axis* const inner = used > 0 ? &merged[used - 1] : nullptr;
    if (inner != nullptr && axis.a == inner->count * inner->a && axis.b == inner->count * inner->b &&
        axis.c == inner->count * inner->c) {
      inner->count *= axis.count;
    } else {
      merged[used++] = axis;
    }
  }
  std::stable_sort(merged.begin(), merged.end(),
                   [](const Axis& x, const Axis& y) { return x.count > y.count; });
  batches.batch = merged[0];
  batches.outer = {merged[1], merged[2]};
  return batches;
}

GemmMatrices Matrices(const WaveTensor& tensor, int64_t offset, int64_t row_stride, int64_t batch_stride) {
  return {.data = static_cast<const std::byte*>(tensor.data) + offset * ElementBytes(tensor.dtype),
          .row_stride = row_stride,
          .batch_stride = batch_stride,
          .dtype = tensor.dtype};
}

}  // namespace

bool IsGemmMatrix(int64_t num_rows, int64_t row_length, int64_t row_stride) {
  return num_rows <= 1 || (row_stride >= row_length && row_stride <= INT32_MAX);
}

int64_t CountCalls(const WaveProduct& product) {
  const Batches batches = BatchesOf(product);
  return batches.outer[0].count * batches.outer[1].count;
}

bool QueueProduct(const WaveProduct& p, Cublas::Calls& calls) {
  const Batches batches = BatchesOf(p);
  const Axis& batch = batches.batch;
  const auto& [outer, outermost] = batches.outer;
  const int64_t b_row_stride =
      RowStride(p.b, p.transpose_b ? p.columns : p.depth, p.transpose_b ? p.depth : p.columns);
  for (int64_t i = 0; i < outermost.count; ++i) {
    for (int64_t j = 0; j < outer.count; ++j) {
      const bool queued =
          calls.Gemm({.rows = batches.rows,
                      .columns = p.columns,
                      .depth = p.depth,
                      .batches = static_cast<int32_t>(batch.count),
                      .transpose_b = p.transpose_b,
                      .accumulate = p.accumulate,
                      .a = Matrices(p.a, i * outermost.a + j * outer.a, batches.a_row_stride, batch.a),
                      .b = Matrices(p.b, i * outermost.b + j * outer.b, b_row_stride, batch.b),
                      .c = Matrices(p.c, i * outermost.c + j * outer.c, batches.c_row_stride, batch.c)});
      if (!queued) return false;
    }
  }
  return true;
}

}  // namespace tessera::kernels::cuda
