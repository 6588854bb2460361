// A problem with its memory, and the check of what the fused kernel makes of it against a float64 loop
// written straight from tessera/attention.h.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/fused_attention.h"

namespace tessera::kernels::cpu {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline int64_t SizeOfType(tessera_dtype dtype) {
  return dtype == TESSERA_DTYPE_FP32 ? 4 : dtype == TESSERA_DTYPE_BOOL ? 1 : 2;
}

inline double HalfValue(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? std::nan("") : sign * kInf;
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

inline double ValueAt(tessera_dtype dtype, const void* data, int64_t i) {
  if (dtype == TESSERA_DTYPE_FP32) return static_cast<const float*>(data)[i];
  if (dtype == TESSERA_DTYPE_BOOL) return static_cast<const uint8_t*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  if (dtype == TESSERA_DTYPE_FP16) return HalfValue(bits);
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Stores `value`, truncated where it does not fit: inputs are what was stored.
inline void Put(tessera_dtype dtype, void* data, int64_t i, float value) {
  if (dtype == TESSERA_DTYPE_FP32) {
    static_cast<float*>(data)[i] = value;
  } else if (dtype == TESSERA_DTYPE_BOOL) {
    static_cast<uint8_t*>(data)[i] = value != 0 ? 255 : 0;
  } else if (dtype == TESSERA_DTYPE_BF16) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) bits = 0x7FC00000u;
    static_cast<uint16_t*>(data)[i] = static_cast<uint16_t>(bits >> 16);
  } else {
    uint16_t half = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs(value);
    if (std::isnan(value)) {
      half |= 0x7E00;
    } else if (magnitude >= 65536) {
      half |= 0x7C00;
    } else if (magnitude >= std::ldexp(1, -14)) {
      int exponent;
      const double fraction = std::frexp(magnitude, &exponent);  // [0.5, 1)
      half |= static_cast<uint16_t>((exponent + 14) << 10 | (static_cast<int>(fraction * 2048) & 1023));
    } else {
      half |= static_cast<uint16_t>(std::ldexp(magnitude, 24));
    }
    static_cast<uint16_t*>(data)[i] = half;
  }
}

struct SequenceSpec {
  int64_t q_len, kv_len;
  int64_t diagonal_offset = 0;
  int64_t window_left = -1, window_right = -1;
};

struct Spec {
  std::vector<SequenceSpec> sequences = {{64, 64}};
  int32_t q_heads = 2, kv_heads = 2, dim_qk = 64, dim_v = 64;
  tessera_dtype dtype = TESSERA_DTYPE_FP32;
  tessera_dtype out_dtype = TESSERA_DTYPE_INVALID;  // as dtype
  float scale = 0;                                  // 1 / sqrt(dim_qk)
  float softcap = 0;
  bool alibi = false, sinks = false, lse = true;
  tessera_mask_kind mask_kind = TESSERA_MASK_NONE;
  tessera_dtype mask_dtype = TESSERA_DTYPE_INVALID;
  bool mask_broadcast_heads = false, mask_broadcast_rows = false;
  double mask_density = 0.7;
  float magnitude = 1;  // standard deviation of Q and K
  bool head_major = false;
  int32_t tile_q = 0, tile_kv = 0, num_splits = 1, workers = 2;
};

class Case {
 public:
  Case(const Spec& spec, Isa isa, uint32_t seed = 1) : spec_(spec), isa_(isa), random_(seed) {
    int64_t total_q = 0, total_kv = 0;
    for (const SequenceSpec& s : spec.sequences) {
      total_q += s.q_len;
      total_kv += s.kv_len;
    }
    const tessera_dtype out_dtype = spec.out_dtype ? spec.out_dtype : spec.dtype;
    Allocate(problem_.q, q_, spec.dtype, total_q, spec.q_heads, spec.dim_qk, spec.magnitude);
    Allocate(problem_.k, k_, spec.dtype, total_kv, spec.kv_heads, spec.dim_qk, spec.magnitude);
    Allocate(problem_.v, v_, spec.dtype, total_kv, spec.kv_heads, spec.dim_v, 1);
    Allocate(problem_.o, o_, out_dtype, total_q, spec.q_heads, spec.dim_v, 1);
    lse_.assign(total_q * spec.q_heads, 12345.0f);
    problem_.struct_size = sizeof problem_;
    problem_.num_q_heads = spec.q_heads;
    problem_.num_kv_heads = spec.kv_heads;
    problem_.head_dim_qk = spec.dim_qk;
    problem_.head_dim_v = spec.dim_v;
    problem_.scale = spec.scale != 0 ? spec.scale : 1 / std::sqrt(static_cast<float>(spec.dim_qk));
    problem_.softcap = spec.softcap;
    if (spec.lse) problem_.lse = {lse_.data(), static_cast<int64_t>(lse_.size()), spec.q_heads, 1};
    problem_.mask_kind = spec.mask_kind;
    problem_.mask_dtype = spec.mask_dtype;
    for (int h = 0; h < spec.q_heads; ++h) {
      slopes_.push_back(std::ldexp(1.0f, -1 - h % 8));
      sinks_.push_back(h == 1 ? -std::numeric_limits<float>::infinity() : 0.5f * h - 1);
    }
    if (spec.alibi) problem_.alibi_slopes = slopes_.data();
    if (spec.sinks) problem_.sinks = sinks_.data();
    int64_t q_begin = 0, kv_begin = 0;
    for (const SequenceSpec& s : spec.sequences) {
      tessera_sequence sequence{};
      sequence.q_begin = q_begin;
      sequence.q_len = s.q_len;
      sequence.kv_begin = kv_begin;
      sequence.kv_len = s.kv_len;
      sequence.diagonal_offset = s.diagonal_offset;
      sequence.window_left = s.window_left;
      sequence.window_right = s.window_right;
      AddMask(sequence);
      sequences_.push_back(sequence);
      q_begin += s.q_len;
      kv_begin += s.kv_len;
    }
    problem_.sequences = sequences_.data();
    problem_.num_sequences = static_cast<int64_t>(sequences_.size());
  }

  void SetK(int64_t token, int32_t head, int32_t d, float value) { Set(problem_.k, token, head, d, value); }
  void SetV(int64_t token, int32_t head, int32_t d, float value) { Set(problem_.v, token, head, d, value); }

  void Run() {
    FusedConfig config;
    config.isa = isa_;
    config.tile_q = spec_.tile_q;
    config.tile_kv = spec_.tile_kv;
    config.num_splits = spec_.num_splits;
    config.num_workers = spec_.workers;
    const int64_t bytes = FusedWorkspaceBytes(problem_, config);
    std::unique_ptr<std::byte, void (*)(std::byte*)> workspace(
        static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64)),
        [](std::byte* p) { std::free(p); });
    std::memset(workspace.get(), 0xFF, bytes);  // NaN everywhere: nothing may be read before it is written
    ThreadPool pool(spec_.workers);
    FusedAttention(problem_, config, workspace.get(), pool);
  }

  // Compares with the float64 loop.
  void Check() const {
    double error = 0, norm = 0;
    for (const tessera_sequence& s : sequences_) {
      for (int32_t h = 0; h < spec_.q_heads; ++h) {
        for (int64_t i = 0; i < s.q_len; ++i) CheckRow(s, h, i, error, norm);
      }
    }
    EXPECT_LE(std::sqrt(error), Bound() * std::sqrt(norm) + 1e-30)
        << "relative error " << std::sqrt(error / norm);
  }

  void RunAndCheck() {
    Run();
    Check();
  }

  const std::vector<std::byte>& output() const { return o_; }
  const std::vector<float>& lse() const { return lse_; }

 private:
  void Allocate(tessera_tensor& tensor, std::vector<std::byte>& memory, tessera_dtype dtype, int64_t tokens,
                int32_t heads, int32_t dim, float magnitude) {
    const int64_t count = tokens * heads * dim;
    memory.resize(count * SizeOfType(dtype));
    std::normal_distribution<float> normal(0, magnitude);
    for (int64_t i = 0; i < count; ++i) Put(dtype, memory.data(), i, normal(random_));
    tensor = {memory.data(), count, spec_.head_major ? dim : int64_t{heads} * dim,
              spec_.head_major ? tokens * dim : dim, dtype};
  }

  void AddMask(tessera_sequence& sequence) {
    if (spec_.mask_kind == TESSERA_MASK_NONE) return;
    const int64_t heads = spec_.mask_broadcast_heads ? 1 : spec_.q_heads;
    const int64_t rows = spec_.mask_broadcast_rows ? 1 : sequence.q_len;
    std::vector<std::byte> memory(heads * rows * sequence.kv_len * SizeOfType(spec_.mask_dtype) + 1);
    std::normal_distribution<float> normal(0, 1);
    std::bernoulli_distribution visible(spec_.mask_density);
    for (int64_t i = 0; i < heads * rows * sequence.kv_len; ++i) {
      const bool see = visible(random_);
      const float value =
          spec_.mask_kind == TESSERA_MASK_BOOLEAN ? (see ? 1.0f : 0.0f) : (see ? normal(random_) : -INFINITY);
      Put(spec_.mask_dtype, memory.data(), i, value);
    }
    masks_.push_back(std::move(memory));
    sequence.mask = masks_.back().data();
    sequence.mask_head_stride = spec_.mask_broadcast_heads ? 0 : rows * sequence.kv_len;
    sequence.mask_q_stride = spec_.mask_broadcast_rows ? 0 : sequence.kv_len;
    sequence.mask_kv_stride = 1;
  }

  static void Set(const tessera_tensor& tensor, int64_t token, int32_t head, int32_t d, float value) {
    Put(tensor.dtype, tensor.data, token * tensor.token_stride + head * tensor.head_stride + d, value);
  }
  static double Get(const tessera_tensor& tensor, int64_t token, int32_t head, int32_t d) {
    return ValueAt(tensor.dtype, tensor.data, token * tensor.token_stride + head * tensor.head_stride + d);
  }

  double Bound() const {
    const tessera_dtype out = problem_.o.dtype;
    if (spec_.dtype == TESSERA_DTYPE_BF16 || out == TESSERA_DTYPE_BF16) return 3e-3;
    if (spec_.dtype == TESSERA_DTYPE_FP16 || out == TESSERA_DTYPE_FP16) return 4e-4;
    return spec_.magnitude > 1 ? 2e-5 : 1e-6;
  }

  // Final logit of key j, or false when it is hidden.
  bool Logit(const tessera_sequence& s, int32_t h, int64_t i, int64_t j, double* x) const {
    const int64_t diagonal = i + s.diagonal_offset;
    const double left = static_cast<double>(s.window_left), right = static_cast<double>(s.window_right);
    if (left >= 0 && static_cast<double>(j) < static_cast<double>(diagonal) - left) return false;
    if (right >= 0 && static_cast<double>(j) > static_cast<double>(diagonal) + right) return false;
    double bias = 0;
    if (problem_.mask_kind != TESSERA_MASK_NONE) {
      const double mask = ValueAt(problem_.mask_dtype, s.mask,
                                  h * s.mask_head_stride + i * s.mask_q_stride + j * s.mask_kv_stride);
      if (problem_.mask_kind == TESSERA_MASK_BOOLEAN ? mask == 0 : mask == -kInf) return false;
      if (problem_.mask_kind == TESSERA_MASK_ADDITIVE) bias = mask;
    }
    const int32_t g = h / (spec_.q_heads / spec_.kv_heads);
    double dot = 0;
    for (int32_t d = 0; d < spec_.dim_qk; ++d) {
      dot += Get(problem_.q, s.q_begin + i, h, d) * Get(problem_.k, s.kv_begin + j, g, d);
    }
    *x = problem_.scale * dot;
    if (problem_.softcap > 0) *x = problem_.softcap * std::tanh(*x / problem_.softcap);
    if (problem_.alibi_slopes) *x -= double{slopes_[h]} * std::fabs(static_cast<double>(diagonal - j));
    *x += bias;
    return true;
  }

  void CheckRow(const tessera_sequence& s, int32_t h, int64_t i, double& error, double& norm) const {
    const int32_t g = h / (spec_.q_heads / spec_.kv_heads);
    std::vector<double> logits(s.kv_len, -kInf);
    std::vector<bool> seen(s.kv_len);
    double max = spec_.sinks ? sinks_[h] : -kInf;
    for (int64_t j = 0; j < s.kv_len; ++j) {
      seen[j] = Logit(s, h, i, j, &logits[j]);
      if (logits[j] > max) max = logits[j];
    }
    double sum = spec_.sinks && max > -kInf ? std::exp(sinks_[h] - max) : 0;
    std::vector<double> expected(spec_.dim_v, 0.0);
    for (int64_t j = 0; j < s.kv_len; ++j) {
      if (!seen[j]) continue;
      const double weight = std::exp(logits[j] - max);
      sum += weight;
      for (int32_t d = 0; d < spec_.dim_v; ++d) expected[d] += weight * Get(problem_.v, s.kv_begin + j, g, d);
    }
    double row_error = 0, row_norm = 0;
    for (int32_t d = 0; d < spec_.dim_v; ++d) {
      const double want = sum == 0 ? 0 : expected[d] / sum, got = Get(problem_.o, s.q_begin + i, h, d);
      ASSERT_EQ(std::isnan(want), std::isnan(got))
          << "row " << i << " head " << h << " dim " << d << ": " << got;
      if (std::isnan(want)) continue;
      if (std::isinf(want) || std::isinf(got)) {
        ASSERT_EQ(want, got) << "row " << i << " head " << h << " dim " << d;
        continue;
      }
      row_error += (want - got) * (want - got);
      row_norm += want * want;
    }
    if (sum == 0) {
      ASSERT_EQ(row_error, 0) << "row " << i << " head " << h << " sees no key";
    }
    error += row_error;
    norm += row_norm;
    if (problem_.lse.data == nullptr) return;
    const double want = sum == 0 ? max : max + std::log(sum), got = lse_[(s.q_begin + i) * spec_.q_heads + h];
    if (std::isnan(want) || std::isinf(want)) {
      ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : want == got) << "lse of row " << i << ": " << got;
    } else {
      ASSERT_NEAR(want, got, 1e-5 * std::max(1.0, std::fabs(want)) * (spec_.magnitude > 1 ? 10 : 1))
          << "lse of row " << i << " head " << h;
    }
  }

  Spec spec_;
  Isa isa_;
  std::mt19937 random_;
  tessera_attention_problem problem_{};
  std::vector<std::byte> q_, k_, v_, o_;
  std::vector<float> lse_, slopes_, sinks_;
  std::vector<tessera_sequence> sequences_;
  std::vector<std::vector<std::byte>> masks_;
};

}  // namespace tessera::kernels::cpu
