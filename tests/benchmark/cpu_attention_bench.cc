// Speed of the fused CPU kernel. Args of a benchmark: dtype (1 fp32, 2 fp16, 3 bf16), batch, heads, q_len,
// kv_len, head_dim, causal, threads (0: all), isa (-1: the best). Each checks sampled rows against float64
// before it is timed.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/fused_attention.h"

namespace tessera::kernels::cpu {
namespace {

struct Shape {
  tessera_dtype dtype;
  int64_t batch, heads, q_len, kv_len, dim;
  bool causal;
};

float Rounded(tessera_dtype dtype, float value, void* out) {
  if (dtype == TESSERA_DTYPE_FP32) {
    std::memcpy(out, &value, 4);
    return value;
  }
  // Keep as many bits as bf16 and fp16 both have: the same value is then exact in either.
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits &= 0xFFFF0000u;
  std::memcpy(&value, &bits, 4);
  if (std::fabs(value) < 0x1p-14f) value = 0;
  std::memcpy(&bits, &value, 4);
  const uint16_t bf16 = static_cast<uint16_t>(bits >> 16);
  const uint16_t fp16 = static_cast<uint16_t>(
      value == 0 ? 0 : (bits >> 16 & 0x8000u) | (((bits & 0x7FFFFFFFu) - (112u << 23)) >> 13));
  std::memcpy(out, dtype == TESSERA_DTYPE_BF16 ? &bf16 : &fp16, 2);
  return value;
}

float Value(tessera_dtype dtype, const std::byte* data, int64_t i) {
  if (dtype == TESSERA_DTYPE_FP32) {
    float value;
    std::memcpy(&value, data + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  if (dtype == TESSERA_DTYPE_BF16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                        : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// A problem in (batch, head, token, dim) layout with random inputs, in enough copies to go past the caches.
class Case {
 public:
  Case(const Shape& shape, Isa isa, int threads) : shape_(shape), pool_(threads) {
    const int64_t element = shape.dtype == TESSERA_DTYPE_FP32 ? 4 : 2;
    const int64_t q_count = shape.batch * shape.heads * shape.q_len * shape.dim;
    const int64_t kv_count = shape.batch * shape.heads * shape.kv_len * shape.dim;
    const int64_t bytes = (2 * q_count + 2 * kv_count) * element;
    const int64_t copies = std::clamp<int64_t>((int64_t{1} << 30) / bytes, 1, 16);
    std::mt19937 random(std::random_device{}());
    std::normal_distribution<float> normal;
    std::vector<float> pool(1 << 18);
    for (float& value : pool) value = normal(random);
    const auto fill = [&](std::vector<std::byte>& data, int64_t count) {
      data.resize(count * element);
      for (int64_t i = 0; i < count; ++i)
        Rounded(shape.dtype, pool[random() % pool.size()], &data[i * element]);
    };
    inputs_.resize(copies);
    for (Inputs& in : inputs_) {
      fill(in.q, q_count);
      fill(in.k, kv_count);
      fill(in.v, kv_count);
    }
    o_.resize(q_count * element);

    for (int64_t b = 0; b < shape.batch; ++b) {
      tessera_sequence sequence{};
      sequence.q_begin = b * shape.heads * shape.q_len;
      sequence.kv_begin = b * shape.heads * shape.kv_len;
      sequence.q_len = shape.q_len;
      sequence.kv_len = shape.kv_len;
      sequence.diagonal_offset = shape.kv_len - shape.q_len;
      sequence.window_left = -1;
      sequence.window_right = shape.causal ? 0 : -1;
      sequences_.push_back(sequence);
    }
    problem_.struct_size = sizeof problem_;
    problem_.num_q_heads = problem_.num_kv_heads = static_cast<int32_t>(shape.heads);
    problem_.head_dim_qk = problem_.head_dim_v = static_cast<int32_t>(shape.dim);
    problem_.scale = 1 / std::sqrt(static_cast<float>(shape.dim));
    problem_.o = View(o_, shape.q_len);
    problem_.sequences = sequences_.data();
    problem_.num_sequences = shape.batch;
    config_.isa = isa;
    config_.num_splits = 0;
    config_.num_workers = pool_.num_workers();
    Select(0);
    const int64_t workspace = FusedWorkspaceBytes(problem_, config_);
    workspace_.reset(static_cast<std::byte*>(std::aligned_alloc(64, (workspace + 63) / 64 * 64)));
  }

  void Select(int64_t turn) {
    Inputs& in = inputs_[turn % static_cast<int64_t>(inputs_.size())];
    problem_.q = View(in.q, shape_.q_len);
    problem_.k = View(in.k, shape_.kv_len);
    problem_.v = View(in.v, shape_.kv_len);
  }

  void Run() { FusedAttention(problem_, config_, workspace_.get(), pool_); }

  // Relative Frobenius error over sampled rows of the first inputs.
  double Error() {
    Select(0);
    Run();
    std::mt19937 random(std::random_device{}());
    double error = 0, norm = 0;
    for (int sample = 0; sample < 32; ++sample) {
      const int64_t head = static_cast<int64_t>(random() % (shape_.batch * shape_.heads));
      const int64_t row = static_cast<int64_t>(random() % shape_.q_len);
      AddRowError(head, row, error, norm);
    }
    return std::sqrt(error / norm);
  }

  int workers() const { return pool_.num_workers(); }

 private:
  struct Inputs {
    std::vector<std::byte> q, k, v;
  };

  tessera_tensor View(std::vector<std::byte>& data, int64_t tokens) const {
    return {data.data(), shape_.batch * shape_.heads * tokens * shape_.dim, shape_.dim, tokens * shape_.dim,
            shape_.dtype};
  }

  void AddRowError(int64_t head, int64_t row, double& error, double& norm) const {
    const Inputs& in = inputs_[0];
    const int64_t dim = shape_.dim;
    const int64_t keys = shape_.causal ? shape_.kv_len - shape_.q_len + row + 1 : shape_.kv_len;
    const int64_t q = (head * shape_.q_len + row) * dim, kv = head * shape_.kv_len * dim;
    std::vector<double> weights(keys), expected(dim, 0.0);
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < dim; ++d) {
        dot += double{Value(shape_.dtype, in.q.data(), q + d)} *
               Value(shape_.dtype, in.k.data(), kv + j * dim + d);
      }
      weights[j] = dot * problem_.scale;
      max = std::max(max, weights[j]);
    }
    for (int64_t j = 0; j < keys; ++j) {
      const double weight = std::exp(weights[j] - max);
      sum += weight;
      for (int64_t d = 0; d < dim; ++d) {
        expected[d] += weight * Value(shape_.dtype, in.v.data(), kv + j * dim + d);
      }
    }
    for (int64_t d = 0; d < dim; ++d) {
      const double want = expected[d] / sum, got = Value(shape_.dtype, o_.data(), q + d);
      error += (got - want) * (got - want);
      norm += want * want;
    }
  }

  Shape shape_;
  ThreadPool pool_;
  std::vector<Inputs> inputs_;
  std::vector<std::byte> o_;
  std::vector<tessera_sequence> sequences_;
  tessera_attention_problem problem_{};
  FusedConfig config_;
  std::unique_ptr<std::byte, void (*)(std::byte*)> workspace_{nullptr, [](std::byte* p) { std::free(p); }};
};

double Bound(const Shape& shape) {
  if (shape.dtype == TESSERA_DTYPE_BF16) return 3e-3;
  if (shape.dtype == TESSERA_DTYPE_FP16) return 4e-4;
  return 1e-6 * std::max(1.0, std::sqrt(static_cast<double>(shape.kv_len) / 4096));
}

void FusedAttentionBench(benchmark::State& state) {
  const Shape shape = {static_cast<tessera_dtype>(state.range(0)),
                       state.range(1),
                       state.range(2),
                       state.range(3),
                       state.range(4),
                       state.range(5),
                       state.range(6) != 0};
  const Isa isa = state.range(8) < 0 ? BestIsa() : static_cast<Isa>(state.range(8));
  if (!IsaUsable(isa)) {
    state.SkipWithError(("this processor has no " + std::string(IsaName(isa))).c_str());
    return;
  }
  Case test(shape, isa, static_cast<int>(state.range(7)));
  const double error = test.Error();
  if (!(error <= Bound(shape))) {
    state.SkipWithError(("wrong result: relative error " + std::to_string(error)).c_str());
    return;
  }
  int64_t turn = 0;
  for (auto _ : state) {
    test.Select(turn++);
    test.Run();
  }
  const double pairs = static_cast<double>(shape.batch * shape.heads) *
                       (shape.causal ? shape.q_len * (shape.kv_len - (shape.q_len - 1) / 2.0)
                                     : static_cast<double>(shape.q_len * shape.kv_len));
  const double element = shape.dtype == TESSERA_DTYPE_FP32 ? 4 : 2;
  const double kv_bytes = 2.0 * shape.batch * shape.heads * shape.kv_len * shape.dim * element;
  const auto per_second = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = benchmark::Counter(4e-9 * pairs * shape.dim, per_second);
  if (shape.q_len <= 16) state.counters["KV GB/s"] = benchmark::Counter(1e-9 * kv_bytes, per_second);
  state.counters["error"] = error;
  state.counters["threads"] = test.workers();
  state.SetLabel(FusedKernelName(isa, shape.dtype));
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"dtype", "B", "H", "Sq", "Skv", "D", "causal", "threads", "isa"})->UseRealTime();
  for (const int64_t dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_FP16, TESSERA_DTYPE_BF16}) {
    for (const int64_t causal : {0, 1}) {
      bench->Args({dtype, 1, 16, 1024, 1024, 64, causal, 0, -1});
      bench->Args({dtype, 1, 16, 4096, 4096, 128, causal, 0, -1});
    }
    bench->Args({dtype, 1, 16, 1, 32768, 128, 1, 0, -1});
    bench->Args({dtype, 1, 1, 1, 131072, 128, 1, 0, -1});
  }
  for (int64_t isa = 0; isa <= static_cast<int64_t>(BestIsa()); ++isa) {
    for (const int64_t dtype : {TESSERA_DTYPE_FP32, TESSERA_DTYPE_BF16}) {
      bench->Args({dtype, 1, 8, 1024, 1024, 128, 0, 1, isa});
    }
  }
}

BENCHMARK(FusedAttentionBench)->Apply(Shapes)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tessera::kernels::cpu

BENCHMARK_MAIN();
