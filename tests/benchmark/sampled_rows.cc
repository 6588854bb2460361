#include "tests/benchmark/sampled_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/conformance/error_metric.h"
#include "tests/conformance/number_formats.h"

namespace tessera::benchmark {
namespace {

constexpr int kPairs = 4;
constexpr int kRowsOfPair = 64;

// One (sequence, kv head) pair with its keys and values decoded.
struct Pair {
  int64_t sequence;
  int32_t kv_head;
  std::vector<float> k, v;  // (kv_len, head_dim)
};

struct Row {
  const Pair* pair;
  int64_t query;
  int32_t head;
};

struct RowError {
  double error2 = 0, norm2 = 0, size2 = 0;  // squared norms: o - reference, reference, its terms
};

std::vector<float> Decode(const TensorView& tensor, int64_t begin, int64_t tokens, int32_t head,
                          int32_t dim) {
  std::vector<float> values(static_cast<size_t>(tokens * dim));
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t at = (begin + t) * tensor.token_stride + head * tensor.head_stride;
    for (int32_t d = 0; d < dim; ++d) {
      values[static_cast<size_t>(t * dim + d)] =
          static_cast<float>(testing::ReadElement(tensor.data, tensor.dtype, at + d));
    }
  }
  return values;
}

std::vector<Pair> DrawPairs(const AttentionProblem& p, std::mt19937_64& random) {
  std::vector<Pair> pairs(kPairs);
  // Long sequences and short ones: by token, and by number.
  for (int i = 0; i < kPairs; ++i) {
    int64_t sequence = static_cast<int64_t>(random() % static_cast<uint64_t>(p.num_sequences));
    if (i % 2 == 0) {
      auto token =
          static_cast<int64_t>(random() % static_cast<uint64_t>(std::max<int64_t>(SizeOf(p).q_tokens, 1)));
      for (sequence = 0; token >= p.sequences[sequence].q_len; ++sequence)
        token -= p.sequences[sequence].q_len;
    }
    pairs[i].sequence = sequence;
    pairs[i].kv_head = static_cast<int32_t>(random() % static_cast<uint64_t>(p.num_kv_heads));
  }
  return pairs;
}

std::vector<Row> DrawRows(const AttentionProblem& p, const std::vector<Pair>& pairs,
                          std::mt19937_64& random) {
  const int32_t group = p.num_q_heads / p.num_kv_heads;
  std::vector<Row> rows;
  for (const Pair& pair : pairs) {
    const int64_t q_len = p.sequences[pair.sequence].q_len;
    for (int i = 0; i < kRowsOfPair && q_len > 0; ++i) {
      const int64_t query =
          i == 0 ? q_len - 1 : static_cast<int64_t>(random() % static_cast<uint64_t>(q_len));
      const auto head = static_cast<int32_t>(random() % static_cast<uint64_t>(group));
      rows.push_back({&pair, query, pair.kv_head * group + head});
    }
  }
  return rows;
}

RowError ErrorOf(const AttentionProblem& p, const Row& row) {
  const Sequence& s = p.sequences[row.pair->sequence];
  const int32_t dim = p.head_dim_qk;
  const KeyRange keys = VisibleKeys(s, row.query);
  const std::vector<float> q = Decode(p.q, s.q_begin + row.query, 1, row.head, dim);
  const std::vector<float> actual = Decode(p.o, s.q_begin + row.query, 1, row.head, dim);

  std::vector<double> weights(static_cast<size_t>(keys.end - keys.begin));
  double maximum = -INFINITY;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const float* const k = &row.pair->k[static_cast<size_t>(j * dim)];
    double dots[4] = {};  // independent sums, for speed
    for (int32_t d = 0; d < dim; ++d) dots[d % 4] += double{q[d]} * k[d];
    double& weight = weights[static_cast<size_t>(j - keys.begin)];
    weight = p.scale * (dots[0] + dots[1] + (dots[2] + dots[3]));
    maximum = std::max(maximum, weight);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - maximum);
  std::vector<double> expected(static_cast<size_t>(dim), 0.0);
  RowError error;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const double weight = weights[static_cast<size_t>(j - keys.begin)] / sum;
    const float* const v = &row.pair->v[static_cast<size_t>(j * dim)];
    double v2 = 0;
    for (int32_t d = 0; d < dim; ++d) {
      expected[d] += weight * v[d];
      v2 += double{v[d]} * v[d];
    }
    error.size2 += weight * weight * v2;
  }
  for (int32_t d = 0; d < dim; ++d) {
    const double difference = actual[d] - expected[d];
    error.error2 += difference * difference;
    error.norm2 += expected[d] * expected[d];
  }
  return error;
}

void ParallelFor(size_t tasks, const auto& body) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < tasks; i = next++) body(i);
  };
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < std::max(std::thread::hardware_concurrency(), 1u); ++i) threads.emplace_back(work);
  work();
}

// Elements of o that are still the poison of all ones. o holds nothing but the rows.
int64_t CountUnwritten(const TensorView& o) {
  const auto count = [&](auto ones) {
    const auto* const data = static_cast<const decltype(ones)*>(o.data);
    return std::count(data, data + o.num_elements, ones);
  };
  return o.dtype == TESSERA_DTYPE_FP32 ? count(~uint32_t{0}) : count(static_cast<uint16_t>(~0));
}

// fp32 is bounded for up to 4096 keys; beyond, the output shrinks as more values are averaged.
double Bound(const AttentionProblem& p, double bound) {
  int64_t longest = 0;
  for (int64_t n = 0; n < p.num_sequences; ++n) longest = std::max(longest, p.sequences[n].kv_len);
  if (p.q.dtype != TESSERA_DTYPE_FP32) return bound;
  return bound * std::max(1.0, std::sqrt(static_cast<double>(longest) / 4096));
}

}  // namespace

SampledError CheckSampledRows(const AttentionProblem& p, uint64_t seed) {
  SampledError result;
  if (const int64_t unwritten = CountUnwritten(p.o); unwritten > 0) {
    result.failure = absl::StrCat(unwritten, " of ", p.o.num_elements, " elements were not written");
    return result;
  }
  std::mt19937_64 random(seed);
  std::vector<Pair> pairs = DrawPairs(p, random);
  ParallelFor(pairs.size() * 2, [&](size_t task) {
    Pair& pair = pairs[task / 2];
    const Sequence& s = p.sequences[pair.sequence];
    const TensorView& tensor = task % 2 == 0 ? p.k : p.v;
    (task % 2 == 0 ? pair.k : pair.v) = Decode(tensor, s.kv_begin, s.kv_len, pair.kv_head, p.head_dim_qk);
  });
  const std::vector<Row> rows = DrawRows(p, pairs, random);
  std::vector<RowError> errors(rows.size());
  ParallelFor(rows.size(), [&](size_t row) { errors[row] = ErrorOf(p, rows[row]); });

  RowError total;
  for (const RowError& error : errors) {
    total.error2 += error.error2;
    total.norm2 += error.norm2;
    const double row = std::sqrt(error.error2 / std::max(error.norm2, error.size2));
    if (row > result.worst_row || std::isnan(row)) result.worst_row = row;  // a NaN stays
  }
  result.rows = static_cast<int64_t>(rows.size());
  result.relative = std::sqrt(total.error2 / total.norm2);
  const testing::ErrorBounds bounds = testing::BoundsFor(p.q.dtype, p.o.dtype, result.rows * p.head_dim_v);
  if (!(result.relative <= Bound(p, bounds.relative)) || !(result.worst_row <= Bound(p, bounds.row))) {
    result.failure =
        absl::StrFormat("relative error %.2e (bound %.1e), worst row %.2e (bound %.1e)", result.relative,
                        Bound(p, bounds.relative), result.worst_row, Bound(p, bounds.row));
  }
  return result;
}

}  // namespace tessera::benchmark
