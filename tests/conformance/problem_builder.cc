#include "tests/conformance/problem_builder.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "backend/core/dtype.h"
#include "tests/conformance/number_formats.h"
#include "tests/conformance/reference.h"

namespace tessera::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kUnusedTokens = 2;            // before each packed sequence, and after the last
constexpr int64_t kHeadGap = 3, kTokenGap = 5;  // unused elements of Layout::kGapped
constexpr int64_t kScaleGap = 1;                // unused scales after those of each sequence
constexpr int64_t kHiddenRowPeriod =
    7;  // a mask with queries of its own hides every key of rows 3, 10, 17, ...
constexpr int64_t kHiddenKeyPeriod =
    11;                                  // and, for Values::kNanInHiddenKeys, keys 5, 16, 27, ... of all rows
constexpr int64_t kPaddedRowBytes = 16;  // rows of Layout::kPaddedRows are multiples of this

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

std::vector<std::byte> PoisonedMemory(int64_t elements, DType dtype) {
  return std::vector<std::byte>(static_cast<size_t>(elements * DTypeSize(dtype)), kPoison);
}

}  // namespace

class ProblemBuilder {
 public:
  ProblemBuilder(const ProblemSpec& spec, uint64_t seed) : spec_(spec), random_(seed), p_(host_.problem_) {}

  HostProblem Build() {
    p_.struct_size = sizeof(AttentionProblem);
    p_.num_q_heads = spec_.num_q_heads;
    p_.num_kv_heads = spec_.num_kv_heads;
    p_.head_dim_qk = spec_.head_dim_qk;
    p_.head_dim_v = spec_.head_dim_v;
    p_.scale = spec_.scale_factor / std::sqrt(static_cast<float>(spec_.head_dim_qk));
    p_.softcap = spec_.softcap;
    PlaceSequences();
    MakeTensors();
    MakePerHeadOptions();
    MakeScales();
    MakeMasks();
    DrawInputs();
    Distort();
    return std::move(host_);
  }

 private:
  bool padded() const { return spec_.layout == Layout::kBshd || spec_.layout == Layout::kBhsd; }
  int64_t LongestQ() const {
    return std::max_element(spec_.sequences.begin(), spec_.sequences.end(),
                            [](const Lengths& a, const Lengths& b) { return a.q < b.q; })
        ->q;
  }
  int64_t LongestKv() const {
    return std::max_element(spec_.sequences.begin(), spec_.sequences.end(),
                            [](const Lengths& a, const Lengths& b) { return a.kv < b.kv; })
        ->kv;
  }

  // Begins, lengths and windows. Begins count token strides, which a (batch, head, token, dim) tensor has
  // heads times as many of.
  void PlaceSequences() {
    int64_t next_q = kUnusedTokens, next_kv = kUnusedTokens;
    for (const Lengths& lengths : spec_.sequences) {
      Sequence s{};
      s.q_len = lengths.q;
      s.kv_len = lengths.kv;
      if (padded()) {
        const auto b = static_cast<int64_t>(host_.sequences_.size());
        const bool heads_outside = spec_.layout == Layout::kBhsd;
        s.q_begin = b * LongestQ() * (heads_outside ? spec_.num_q_heads : 1);
        s.kv_begin = b * LongestKv() * (heads_outside ? spec_.num_kv_heads : 1);
      } else {
        s.q_begin = next_q;
        s.kv_begin = next_kv;
        next_q += lengths.q + kUnusedTokens;
        next_kv += lengths.kv + kUnusedTokens;
      }
      if (spec_.shared_kv) s.kv_begin = padded() ? 0 : kUnusedTokens;
      s.diagonal_offset = (spec_.window.alignment == Alignment::kBottomRight ? lengths.kv - lengths.q : 0) +
                          spec_.window.shift;
      s.window_left = spec_.window.left;
      s.window_right = spec_.window.right;
      host_.sequences_.push_back(s);
    }
    const auto batch = static_cast<int64_t>(spec_.sequences.size());
    q_tokens_ = padded() ? batch * (batch > 0 ? LongestQ() : 0) : next_q;
    kv_tokens_ = padded() ? batch * (batch > 0 ? LongestKv() : 0) : next_kv;
    p_.sequences = host_.sequences_.data();
    p_.num_sequences = batch;
  }

  struct Strides {
    int64_t token, head, num_elements;
  };
  Strides StridesOf(DType dtype, int64_t tokens, int64_t longest, int64_t heads, int64_t dim) const {
    switch (spec_.layout) {
      case Layout::kGapped: {
        const int64_t head_stride = dim + kHeadGap;
        const int64_t token_stride = heads * head_stride + kTokenGap;
        return {token_stride, head_stride, tokens * token_stride};
      }
      case Layout::kBhsd:
        return {dim, longest * dim, tokens * heads * dim};
      case Layout::kFusedQkv: {
        const int64_t token_stride = (spec_.num_q_heads + 2 * spec_.num_kv_heads) * dim;
        return {token_stride, dim, tokens * token_stride};
      }
      case Layout::kPaddedRows: {
        const int64_t row = RoundUp(dim * DTypeSize(dtype), kPaddedRowBytes) / DTypeSize(dtype);
        return {heads * row, row, tokens * heads * row};
      }
      default:
        return {heads * dim, dim, tokens * heads * dim};
    }
  }

  TensorView MakeTensor(DType dtype, const Strides& strides, std::vector<std::byte>& memory) {
    memory = PoisonedMemory(strides.num_elements, dtype);
    return {memory.data(), strides.num_elements, strides.token, strides.head, dtype};
  }

  void MakeTensors() {
    const int64_t longest_q = spec_.sequences.empty() ? 0 : LongestQ();
    const int64_t longest_kv = spec_.sequences.empty() ? 0 : LongestKv();
    const auto q_side = [&](DType dtype, int64_t dim, std::vector<std::byte>& memory) {
      return MakeTensor(dtype, StridesOf(dtype, q_tokens_, longest_q, spec_.num_q_heads, dim), memory);
    };
    const auto kv_side = [&](DType dtype, int64_t dim, std::vector<std::byte>& memory) {
      return MakeTensor(dtype, StridesOf(dtype, kv_tokens_, longest_kv, spec_.num_kv_heads, dim), memory);
    };
    p_.q = q_side(spec_.dtype, spec_.head_dim_qk, host_.q_);
    p_.k = kv_side(spec_.dtype, spec_.head_dim_qk, host_.k_);
    p_.v = kv_side(spec_.dtype, spec_.head_dim_v, host_.v_);
    p_.o = q_side(spec_.OutputDType(), spec_.head_dim_v, host_.o_);
    if (!spec_.lse) return;
    const TensorView lse = q_side(TESSERA_DTYPE_FP32, 1, host_.lse_);
    p_.lse = {static_cast<float*>(lse.data), lse.num_elements, lse.token_stride, lse.head_stride};
  }

  // Slopes and sinks differ from head to head; the sinks weigh about as much as a few tens of keys.
  void MakePerHeadOptions() {
    for (int32_t h = 0; h < spec_.num_q_heads; ++h) {
      host_.alibi_slopes_.push_back(0.5f / static_cast<float>(h + 1));
      host_.sinks_.push_back(3.0f + static_cast<float>(normal_(random_)) * 0.5f);
    }
    if (spec_.alibi) p_.alibi_slopes = host_.alibi_slopes_.data();
    if (spec_.sinks) p_.sinks = host_.sinks_.data();
  }

  // Of Q's unit-normal numbers times this.
  double QFactor() const {
    return spec_.values == Values::kHugeLogits ? 100 : spec_.values == Values::kTinyLogits ? 1e-4 : 1;
  }

  void MakeScales() {
    if (spec_.dtype != TESSERA_DTYPE_FP8_E4M3 || spec_.scales == Scales::kNone) return;
    p_.q_scales = DrawScales(spec_.num_q_heads, QFactor(), host_.q_scales_);
    p_.k_scales = DrawScales(spec_.num_kv_heads, 1, host_.k_scales_);
    p_.v_scales = DrawScales(spec_.num_kv_heads, 1, host_.v_scales_);
  }

  // About what brings unit-normal numbers times `factor` into the range of e4m3. What lies between the
  // scales of two sequences is NaN.
  tessera_scales DrawScales(int32_t heads, double factor, std::vector<float>& memory) {
    const int64_t rows = spec_.scales == Scales::kOfSequenceAndHead ? p_.num_sequences : 1;
    const int64_t columns = spec_.scales == Scales::kOne ? 1 : heads;
    memory.assign(static_cast<size_t>(rows * (columns + kScaleGap) + 1),
                  std::numeric_limits<float>::quiet_NaN());
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t h = 0; h < columns; ++h) {
        memory[static_cast<size_t>(n * (columns + kScaleGap) + h)] =
            static_cast<float>(factor * 0.01 * std::exp2(2 * uniform_(random_)));
      }
    }
    return {memory.data(), rows > 1 ? columns + kScaleGap : 0, columns > 1 ? 1 : 0};
  }

  void MakeMasks() {
    const MaskSpec& mask = spec_.mask;
    p_.mask_kind = mask.kind;
    p_.mask_dtype = mask.dtype;
    if (mask.kind == TESSERA_MASK_NONE) return;
    std::vector<int64_t> begins;
    int64_t elements = 0;
    for (Sequence& s : host_.sequences_) {
      const int64_t rows = mask.per_query ? s.q_len : 1, keys = mask.per_key ? s.kv_len : 1;
      s.mask_kv_stride = mask.per_key ? 1 : 0;
      const int64_t row = MaskRowElements(keys);
      s.mask_q_stride = mask.per_query ? row : 0;
      s.mask_head_stride = mask.per_head ? rows * row : 0;
      begins.push_back(elements);
      elements += (mask.per_head ? spec_.num_q_heads : 1) * rows * row;
    }
    host_.mask_ = PoisonedMemory(elements, mask.dtype);
    for (size_t n = 0; n < begins.size(); ++n) {
      Sequence& s = host_.sequences_[n];
      s.mask = host_.mask_.data() + begins[n] * DTypeSize(mask.dtype);
      FillMask(s);
    }
  }

  // From one row of the mask to the next.
  int64_t MaskRowElements(int64_t keys) const {
    const MaskSpec& mask = spec_.mask;
    if (mask.row_alignment == 0) return keys;
    const int64_t element = DTypeSize(mask.dtype), bytes = RoundUp(keys * element, mask.row_alignment);
    const bool is_odd = bytes / mask.row_alignment % 2 != 0;
    return (is_odd ? bytes : bytes + mask.row_alignment) / element;
  }

  void FillMask(const Sequence& s) {
    for (int64_t h = 0; h < (spec_.mask.per_head ? spec_.num_q_heads : 1); ++h) {
      for (int64_t i = 0; i < (spec_.mask.per_query ? s.q_len : 1); ++i) {
        for (int64_t j = 0; j < (spec_.mask.per_key ? s.kv_len : 1); ++j) {
          FillMaskElement(const_cast<void*>(s.mask),
                          h * s.mask_head_stride + i * s.mask_q_stride + j * s.mask_kv_stride,
                          IsHidden(s, i, j));
        }
      }
    }
  }

  // A mask of keys alone is padding: the last third is hidden. Others hide whole rows and a third of the
  // rest.
  bool IsHidden(const Sequence& s, int64_t i, int64_t j) {
    if (!spec_.mask.per_key && !spec_.mask.per_query) return false;
    if (!spec_.mask.per_query) return j >= s.kv_len - s.kv_len / 3;
    if (i % kHiddenRowPeriod == 3) return true;
    if (spec_.values == Values::kNanInHiddenKeys && spec_.mask.per_key && j % kHiddenKeyPeriod == 5)
      return true;
    return spec_.mask.per_key && uniform_(random_) < 1.0 / 3;
  }

  double HiddenBias() const {
    if (!spec_.mask.hides_by_lowest) return -kInfinity;
    return spec_.mask.dtype == TESSERA_DTYPE_FP16 ? -65504.0 : -0x1.fep127;  // of bf16; fp32 has it too
  }

  void FillMaskElement(void* data, int64_t index, bool hidden) {
    if (spec_.mask.kind == TESSERA_MASK_ADDITIVE) {
      return WriteElement(data, spec_.mask.dtype, index, hidden ? HiddenBias() : 1.5 * normal_(random_));
    }
    constexpr uint8_t kVisible[] = {1, 2, 0x80, 0xff};  // any byte but 0
    static_cast<uint8_t*>(data)[index] = hidden ? 0 : kVisible[random_() % std::size(kVisible)];
  }

  // Draws the rows of the sequences; what lies between them keeps its poison.
  void DrawInputs() {
    for (int64_t n = 0; n < p_.num_sequences; ++n) {
      const Sequence& s = p_.sequences[n];
      const auto draw = [&](const TensorView& t, const tessera_scales& scales, int64_t begin, int64_t length,
                            int64_t heads, int64_t dim, double factor) {
        for (int64_t h = 0; h < heads; ++h)
          DrawRows(t, begin, length, h, dim, factor / static_cast<double>(ScaleOf(scales, n, h)));
      };
      draw(p_.q, p_.q_scales, s.q_begin, s.q_len, p_.num_q_heads, p_.head_dim_qk, QFactor());
      draw(p_.k, p_.k_scales, s.kv_begin, s.kv_len, p_.num_kv_heads, p_.head_dim_qk, 1);
      draw(p_.v, p_.v_scales, s.kv_begin, s.kv_len, p_.num_kv_heads, p_.head_dim_v, 1);
    }
  }

  void DrawRows(const TensorView& t, int64_t begin, int64_t length, int64_t head, int64_t dim,
                double factor) {
    for (int64_t token = begin; token < begin + length; ++token) {
      for (int64_t d = 0; d < dim; ++d) {
        WriteElement(t.data, t.dtype, token * t.token_stride + head * t.head_stride + d,
                     factor * normal_(random_));
      }
    }
  }

  static void Set(const TensorView& t, int64_t token, int64_t head, int64_t d, double value) {
    WriteElement(t.data, t.dtype, token * t.token_stride + head * t.head_stride + d, value);
  }

  void Distort() {
    for (const Sequence& s : host_.sequences_) {
      const int64_t middle_query = s.q_begin + s.q_len / 2, middle_key = s.kv_begin + s.kv_len / 2;
      if (s.q_len == 0 || s.kv_len == 0) continue;
      switch (spec_.values) {
        case Values::kNanInKey:
          Set(p_.k, middle_key, p_.num_kv_heads - 1, p_.head_dim_qk / 2, kNan);
          break;
        case Values::kNanInValue:
          Set(p_.v, middle_key, p_.num_kv_heads - 1, p_.head_dim_v / 2, kNan);
          break;
        case Values::kInfInValue:
          Set(p_.v, middle_key, p_.num_kv_heads - 1, p_.head_dim_v / 2, kInfinity);
          break;
        case Values::kInfInQuery:
          Set(p_.q, middle_query, p_.num_q_heads - 1, p_.head_dim_qk / 2, kInfinity);
          break;
        case Values::kNanInHiddenKeys:
          DistortHiddenKeys(s);
          break;
        default:
          return;
      }
    }
  }

  void DistortHiddenKeys(const Sequence& s) {
    const int32_t group = p_.num_q_heads / p_.num_kv_heads;
    for (int32_t g = 0; g < p_.num_kv_heads; ++g) {
      for (int64_t j = 0; j < s.kv_len; ++j) {
        bool seen = false;
        for (int32_t h = g * group; h < (g + 1) * group; ++h) {
          for (int64_t i = 0; i < s.q_len && !seen; ++i) seen = IsVisible(p_, s, h, i, j);
        }
        if (seen) continue;
        for (int64_t d = 0; d < p_.head_dim_qk; ++d) Set(p_.k, s.kv_begin + j, g, d, kNan);
        for (int64_t d = 0; d < p_.head_dim_v; ++d)
          Set(p_.v, s.kv_begin + j, g, d, d % 2 == 0 ? kInfinity : kNan);
      }
    }
  }

  const ProblemSpec& spec_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
  HostProblem host_;
  AttentionProblem& p_;
  int64_t q_tokens_ = 0, kv_tokens_ = 0;
};

HostProblem BuildProblem(const ProblemSpec& spec, uint64_t seed) {
  return ProblemBuilder(spec, seed).Build();
}

}  // namespace tessera::testing
