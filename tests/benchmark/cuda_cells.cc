#include "tests/benchmark/cuda_cells.h"

#include <cmath>

namespace tessera::benchmark {
namespace {

constexpr int64_t kBatchTokens = 16384;
constexpr int32_t kHidden = 2048;

std::string Thousands(int64_t tokens) {
  return tokens % 1024 == 0 ? std::to_string(tokens / 1024) + "k" : std::to_string(tokens);
}

std::vector<Length> Batch(int64_t count, Length length) {
  return std::vector<Length>(static_cast<size_t>(count), length);
}

void AddPrefill(std::vector<Cell>& cells) {
  for (const int32_t dim : {64, 128, 256}) {
    for (const bool causal : {false, true}) {
      for (const int64_t length : {512, 1024, 2048, 4096, 8192, 16384}) {
        cells.push_back(
            {.name = "d" + std::to_string(dim) + (causal ? "_causal_s" : "_full_s") + Thousands(length),
             .num_q_heads = kHidden / dim,
             .num_kv_heads = kHidden / dim,
             .head_dim = dim,
             .sequences = Batch(kBatchTokens / length, {length, length}),
             .window_right = causal ? 0 : -1,
             .quick = dim != 256 && (length == 2048 || length == 8192)});
      }
    }
  }
}

// 64 lengths from 16 to 16k, spread evenly on a logarithmic scale, long and short ones mixed.
std::vector<Length> RaggedLengths() {
  constexpr int kSequences = 64;
  constexpr int kStride = 27;  // coprime to 64
  std::vector<Length> lengths;
  for (int i = 0; i < kSequences; ++i) {
    const double position = (i * kStride % kSequences + 0.5) / kSequences;
    const auto length = static_cast<int64_t>(std::lround(16 * std::pow(1024.0, position)));
    lengths.push_back({length, length});
  }
  return lengths;
}

void AddOthers(std::vector<Cell>& cells) {
  for (const int64_t length : {2048, 8192, 32768}) {
    cells.push_back({.name = "gqa_causal_s" + Thousands(length),
                     .num_q_heads = 32,
                     .num_kv_heads = 8,
                     .head_dim = 128,
                     .sequences = {{length, length}},
                     .window_right = 0,
                     .quick = length == 8192});
  }
  for (const bool causal : {false, true}) {
    cells.push_back({.name = causal ? "ragged_causal" : "ragged_full",
                     .num_q_heads = 4,
                     .num_kv_heads = 4,
                     .head_dim = 128,
                     .sequences = RaggedLengths(),
                     .window_right = causal ? 0 : -1});
  }
  cells.push_back({.name = "window1k_s16k",
                   .num_q_heads = 16,
                   .num_kv_heads = 16,
                   .head_dim = 128,
                   .sequences = {{16384, 16384}},
                   .window_left = 1023,
                   .window_right = 0});
  cells.push_back({.name = "chunk512_s16k",
                   .num_q_heads = 32,
                   .num_kv_heads = 8,
                   .head_dim = 128,
                   .sequences = Batch(4, {512, 16384}),
                   .window_right = 0});
  for (const auto& [batch, length] : {std::pair{1, 8192}, {16, 8192}, {64, 8192}, {128, 2048}}) {
    cells.push_back({.name = "decode_b" + std::to_string(batch) + "_s" + Thousands(length),
                     .num_q_heads = 32,
                     .num_kv_heads = 8,
                     .head_dim = 128,
                     .sequences = Batch(batch, {1, length}),
                     .window_right = 0,
                     .quick = batch == 16});
  }
  for (const bool causal : {false, true}) {
    cells.push_back({.name = causal ? "d128_causal_s64k" : "d128_full_s64k",
                     .num_q_heads = 4,
                     .num_kv_heads = 4,
                     .head_dim = 128,
                     .sequences = {{65536, 65536}},
                     .window_right = causal ? 0 : -1,
                     .by_default = false});
  }
}

}  // namespace

std::vector<Cell> AllCells() {
  std::vector<Cell> cells;
  AddPrefill(cells);
  AddOthers(cells);
  return cells;
}

AttentionProblem ProblemOf(const Cell& cell, DType dtype, std::vector<Sequence>& sequences) {
  sequences.clear();
  int64_t q_tokens = 0, kv_tokens = 0;
  for (const Length& length : cell.sequences) {
    sequences.push_back({.q_begin = q_tokens,
                         .q_len = length.q,
                         .kv_begin = kv_tokens,
                         .kv_len = length.kv,
                         .diagonal_offset = length.kv - length.q,
                         .window_left = cell.window_left,
                         .window_right = cell.window_right});
    q_tokens += length.q;
    kv_tokens += length.kv;
  }
  const auto tensor = [&](int64_t tokens, int64_t heads) {
    return TensorView{nullptr, tokens * heads * cell.head_dim, heads * cell.head_dim, cell.head_dim, dtype};
  };
  AttentionProblem problem{};
  problem.struct_size = sizeof(problem);
  problem.num_q_heads = cell.num_q_heads;
  problem.num_kv_heads = cell.num_kv_heads;
  problem.head_dim_qk = problem.head_dim_v = cell.head_dim;
  problem.scale = 1 / std::sqrt(static_cast<float>(cell.head_dim));
  problem.q = tensor(q_tokens, cell.num_q_heads);
  problem.k = tensor(kv_tokens, cell.num_kv_heads);
  problem.v = tensor(kv_tokens, cell.num_kv_heads);
  problem.o = tensor(q_tokens, cell.num_q_heads);
  problem.sequences = sequences.data();
  problem.num_sequences = static_cast<int64_t>(sequences.size());
  return problem;
}

}  // namespace tessera::benchmark
