#include "server/shadow_slices.h"

#include <algorithm>
#include <random>
#include <utility>

#include "backend/core/saturating.h"

namespace tessera {
namespace {

int64_t FlopsOfRow(const AttentionProblem& p, const Sequence& s) {
  const int64_t per_key = 2 * (int64_t{p.head_dim_qk} + p.head_dim_v);
  return std::max<int64_t>(SaturatingMultiply(SaturatingMultiply(s.kv_len, p.num_q_heads), per_key), 1);
}

// The part of a tensor that has the tokens [begin, begin + len), of `heads` heads of `dim` elements.
TensorSource Narrow(const TensorSource& source, TensorView& tensor, int64_t begin, int64_t len, int64_t heads,
                    int64_t dim) {
  const int64_t shift = len > 0 ? begin * tensor.token_stride : 0;
  const int64_t span = len > 0 ? (len - 1) * tensor.token_stride + (heads - 1) * tensor.head_stride + dim : 0;
  tensor.data = nullptr;
  tensor.num_elements = std::min(tensor.num_elements - shift, span);
  const int64_t element = DTypeSize(tensor.dtype);
  return source.Part(shift * element, tensor.num_elements * element);
}

void Advance(tessera_scales& scales, int64_t sequence) {
  if (scales.data != nullptr) scales.data += sequence * scales.sequence_stride;
}

// Bytes of a mask element.
int64_t MaskElementBytes(const AttentionProblem& p) {
  return p.mask_kind == TESSERA_MASK_BOOLEAN ? 1 : DTypeSize(p.mask_dtype);
}

}  // namespace

std::vector<ShadowSlice> ChooseSlices(const AttentionProblem& problem, const ShadowBudget& budget,
                                      uint64_t seed) {
  std::vector<ShadowSlice> slices;
  int64_t flops = 0;
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const Sequence& sequence = problem.sequences[n];
    const int64_t per_row = FlopsOfRow(problem, sequence);
    if (per_row > budget.request_flops) continue;
    const int64_t rows = std::max<int64_t>(budget.slice_flops / per_row, 1);
    for (int64_t row = 0; row < sequence.q_len; row += rows) {
      const int64_t count = std::min(rows, sequence.q_len - row);
      slices.push_back({.sequence = n, .first_row = row, .num_rows = count, .flops = count * per_row});
      flops = SaturatingAdd(flops, slices.back().flops);
    }
  }
  if (flops <= budget.request_flops) return slices;

  std::mt19937_64 random(seed);
  std::shuffle(slices.begin(), slices.end(), random);
  size_t chosen = 0;
  for (flops = 0; chosen < slices.size(); ++chosen) {
    flops += slices[chosen].flops;
    if (flops > budget.request_flops) break;
  }
  slices.resize(chosen);
  return slices;
}

DecodedRequest RequestOf(const DecodedRequest& request, const ShadowSlice& slice, DType output_dtype) {
  DecodedRequest part;
  AttentionProblem& p = part.problem;
  p = request.problem;
  Sequence sequence = p.sequences[slice.sequence];
  const auto& [q, k, v] = request.inputs;
  part.inputs = {
      Narrow(q, p.q, sequence.q_begin + slice.first_row, slice.num_rows, p.num_q_heads, p.head_dim_qk),
      Narrow(k, p.k, sequence.kv_begin, sequence.kv_len, p.num_kv_heads, p.head_dim_qk),
      Narrow(v, p.v, sequence.kv_begin, sequence.kv_len, p.num_kv_heads, p.head_dim_v)};
  for (tessera_scales* scales : {&p.q_scales, &p.k_scales, &p.v_scales}) Advance(*scales, slice.sequence);
  const int64_t row = int64_t{p.num_q_heads} * p.head_dim_v;
  p.o = {.data = nullptr,
         .num_elements = slice.num_rows * row,
         .token_stride = row,
         .head_stride = p.head_dim_v,
         .dtype = output_dtype};
  p.lse = {};

  sequence.q_begin = sequence.kv_begin = 0;
  sequence.q_len = slice.num_rows;
  sequence.diagonal_offset += slice.first_row;
  if (!request.masks.empty()) {
    const size_t index = request.masks.size() == 1 ? 0 : static_cast<size_t>(slice.sequence);
    const TensorSource& mask = request.masks[index];
    const int64_t offset = request.mask_offsets[static_cast<size_t>(slice.sequence)] +
                           slice.first_row * sequence.mask_q_stride * MaskElementBytes(p);
    const int64_t begin = std::min(offset, mask.bytes());  // of no keys there is no mask
    part.masks.push_back(mask.Part(begin, mask.bytes() - begin));
    part.mask_offsets.push_back(0);
    sequence.mask = nullptr;
  }
  part.sequences.push_back(sequence);
  p.sequences = part.sequences.data();
  p.num_sequences = 1;
  part.output_bytes = p.o.num_elements * DTypeSize(output_dtype);
  part.outputs.push_back({.dtype = output_dtype,
                          .shape = {slice.num_rows, p.num_q_heads, p.head_dim_v},
                          .bytes = part.output_bytes});
  return part;
}

}  // namespace tessera
