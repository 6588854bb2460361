#include "client/cli/random_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/numbers.h"
#include "client/cli/random.h"
#include "client/cli/request_options.h"
#include "client/fp8.h"

namespace tessera::client {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int64_t kMaxOffset = 60;
constexpr double kMaxAlibi = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Geometry {
  v1::Layout layout;
  int64_t q_heads, kv_heads, dim_qk, dim_v;
  std::vector<int64_t> q_lens, kv_lens;  // one per sequence
  int64_t q_extent, kv_extent;           // tokens of a padded sequence

  bool packed() const { return layout == v1::LAYOUT_PACKED; }
  int64_t batch() const { return static_cast<int64_t>(q_lens.size()); }
};

int64_t Sum(const std::vector<int64_t>& values) {
  int64_t sum = 0;
  for (int64_t value : values) sum += value;
  return sum;
}

// Short, odd, or beside the sizes that tiles have.
int64_t DrawLength(Random& random, int64_t max_length, int64_t min_length) {
  const int64_t edge = random.Pick<int64_t>({0, 1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129});
  const int64_t length = random.Chance(0.5) ? edge : random.Between(0, max_length);
  return std::clamp(length, min_length, max_length);
}

int64_t DrawHeadDim(Random& random, const ProblemRange& range) {
  const int64_t multiple = std::max<int64_t>(range.head_dim_multiple, 1);
  const int64_t wanted = random.Pick<int64_t>({8, 16, 32, 40, 64, 64, 80, 96, 128, 128, 192, 256});
  const int64_t largest = std::max(range.max_head_dim / multiple, int64_t{1}) * multiple;
  return std::min((wanted + multiple - 1) / multiple * multiple, largest);
}

Geometry DrawGeometry(Random& random, int64_t index, const ProblemRange& range) {
  Geometry g{};
  const auto dtypes = static_cast<int64_t>(range.dtypes.size());
  g.layout = static_cast<v1::Layout>(index / dtypes % 3);
  g.kv_heads = random.Between(1, 3);
  g.q_heads = g.kv_heads * random.Pick<int64_t>({1, 1, 2, 4, 7});
  g.dim_qk = DrawHeadDim(random, range);
  g.dim_v = random.Chance(0.3) ? DrawHeadDim(random, range) : g.dim_qk;
  const int64_t sequences = random.Between(1, 4);
  const bool ragged = g.packed() || random.Chance(0.6);
  const int64_t q_length = DrawLength(random, range.max_length, 1);
  const int64_t kv_length = DrawLength(random, range.max_length, 1);
  for (int64_t i = 0; i < sequences; ++i) {
    g.q_lens.push_back(ragged ? DrawLength(random, range.max_length, i == 0 ? 1 : 0) : q_length);
    g.kv_lens.push_back(ragged ? DrawLength(random, range.max_length, i == 0 ? 1 : 0) : kv_length);
  }
  g.q_extent = *std::max_element(g.q_lens.begin(), g.q_lens.end()) + (ragged ? random.Below(4) : 0);
  g.kv_extent = *std::max_element(g.kv_lens.begin(), g.kv_lens.end()) + (ragged ? random.Below(4) : 0);
  return g;
}

// Unit-normal, with NaN in the padding behind each sequence.
Tensor DrawFloats(Random& random, const Geometry& g, DType dtype, const std::vector<int64_t>& lens,
                  int64_t extent, int64_t heads, int64_t dim) {
  if (g.packed()) {
    std::vector<float> values(static_cast<size_t>(Sum(lens) * heads * dim));
    for (float& value : values) value = random.Normal();
    return FromFloats(values, dtype, {Sum(lens), heads, dim});
  }
  const bool bshd = g.layout == v1::LAYOUT_BSHD;
  std::vector<float> values;
  values.reserve(static_cast<size_t>(g.batch() * extent * heads * dim));
  for (int64_t length : lens) {
    for (int64_t outer = 0; outer < (bshd ? extent : heads); ++outer) {
      for (int64_t inner = 0; inner < (bshd ? heads : extent); ++inner) {
        const bool padding = (bshd ? outer : inner) >= length;
        for (int64_t d = 0; d < dim; ++d) values.push_back(padding ? kNaN : random.Normal());
      }
    }
  }
  return FromFloats(values, dtype,
                    bshd ? std::vector<int64_t>{g.batch(), extent, heads, dim}
                         : std::vector<int64_t>{g.batch(), heads, extent, dim});
}

// Of any dtype; fp8 with scales of its heads, or of each sequence's heads, half to one and a half times
// those.
Tensor DrawTensor(Random& random, const Geometry& g, DType dtype, const std::vector<int64_t>& lens,
                  int64_t extent, int64_t heads, int64_t dim, std::vector<float>& scales) {
  if (dtype != v1::DATA_TYPE_FP8_E4M3) return DrawFloats(random, g, dtype, lens, extent, heads, dim);
  ScaledTensor fp8 =
      *QuantizeFp8(DrawFloats(random, g, v1::DATA_TYPE_FP32, lens, extent, heads, dim), g.layout);
  scales = fp8.scales;
  if (random.Chance(0.5)) {
    scales.clear();
    for (int64_t n = 0; n < g.batch(); ++n) {
      for (float scale : fp8.scales) scales.push_back(scale * static_cast<float>(0.5 + random.Uniform()));
    }
  }
  return std::move(fp8.tensor);
}

// A mask that broadcasts to `full`: dimensions become 1 and leading ones disappear at random.
Tensor DrawMask(Random& random, std::vector<int64_t> full, DType dtype) {
  for (int64_t& extent : full) {
    if (random.Chance(0.3)) extent = 1;
  }
  while (full.size() > 1 && full.front() == 1 && random.Chance(0.5)) full.erase(full.begin());
  const int64_t count = *NumElements(full);
  const double hidden = random.Pick({0.0, 0.2, 0.5, 0.95});  // at 0.95 some rows see nothing
  if (dtype == v1::DATA_TYPE_BOOL) {
    Tensor mask{dtype, full, std::string(static_cast<size_t>(count), '\0')};
    for (char& byte : mask.bytes) byte = random.Chance(hidden) ? 0 : 1;
    return mask;
  }
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.Chance(hidden) ? -kInfinity : random.Normal();
  return FromFloats(values, dtype, full);
}

void DrawMasks(Random& random, const Geometry& g, RandomProblem& problem) {
  if (!random.Chance(0.35)) return;
  const bool boolean = random.Chance(0.5);
  const DType dtype = boolean ? v1::DATA_TYPE_BOOL
                              : random.Pick({v1::DATA_TYPE_FP32, v1::DATA_TYPE_FP16, v1::DATA_TYPE_BF16});
  problem.features.push_back(boolean ? "boolean mask" : "additive mask");
  if (!g.packed()) {
    problem.masks.push_back(DrawMask(random, {g.batch(), g.q_heads, g.q_extent, g.kv_extent}, dtype));
  } else {
    for (int64_t i = 0; i < g.batch(); ++i) {
      const auto s = static_cast<size_t>(i);
      problem.masks.push_back(DrawMask(random, {g.q_heads, g.q_lens[s], g.kv_lens[s]}, dtype));
    }
  }
  for (const Tensor& mask : problem.masks) problem.call.masks.push_back(mask.view());
}

void DrawVisibility(Random& random, const Geometry& g, RandomProblem& problem) {
  v1::AttentionOptions& options = problem.call.options;
  if (random.Chance(0.45)) {
    options.set_causal(true);
    problem.features.push_back("causal");
  } else if (random.Chance(0.2)) {
    options.set_window_right(random.Between(0, 40));
    problem.features.push_back("window right");
  }
  if (random.Chance(0.3)) {
    options.set_window_left(random.Between(0, 100));
    problem.features.push_back("window left");
  }
  if (random.Chance(0.3)) {
    options.set_alignment(v1::ALIGNMENT_TOP_LEFT);
    problem.features.push_back("top-left");
  }
  if (random.Chance(0.15)) {
    for (int64_t i = 0; i < g.batch(); ++i) options.add_diagonal_offsets(random.Between(-20, kMaxOffset));
    problem.features.push_back("diagonal offsets");
  }
}

void DrawScores(Random& random, const Geometry& g, RandomProblem& problem) {
  v1::AttentionOptions& options = problem.call.options;
  if (random.Chance(0.3)) {
    const double natural = 1 / std::sqrt(static_cast<double>(g.dim_qk));
    options.set_scale(static_cast<float>(natural * (0.5 + random.Uniform())));
    problem.features.push_back("scale");
  }
  if (random.Chance(0.25)) {
    options.set_softcap(static_cast<float>(2 + 30 * random.Uniform()));
    problem.features.push_back("softcap");
  }
  if (random.Chance(0.25)) {
    // The bounds are for scores of ordinary size: slopes are flattened until the farthest key loses
    // kMaxAlibi.
    const double reach = static_cast<double>(std::max(g.q_extent, g.kv_extent) + kMaxOffset);
    const double factor = std::min(1.0, kMaxAlibi / reach);
    for (float slope : AlibiSlopes(g.q_heads)) {
      options.add_alibi_slopes(static_cast<float>(slope * factor));
    }
    problem.features.push_back("alibi");
  }
  if (random.Chance(0.25)) {
    for (int64_t h = 0; h < g.q_heads; ++h) options.add_sinks(random.Normal());
    problem.features.push_back("sinks");
  }
}

}  // namespace

std::string RandomProblem::Describe() const {
  std::string text =
      absl::StrCat(DTypeName(q.dtype), " ", LayoutName(call.layout), ", q ", ShapeString(q.shape), ", k ",
                   ShapeString(k.shape), ", v ", ShapeString(v.shape));
  if (!call.q_lens.empty()) absl::StrAppend(&text, ", q_lens ", absl::StrJoin(call.q_lens, ","));
  if (!call.kv_lens.empty()) absl::StrAppend(&text, ", kv_lens ", absl::StrJoin(call.kv_lens, ","));
  if (!features.empty()) absl::StrAppend(&text, ", ", absl::StrJoin(features, ", "));
  return text;
}

std::unique_ptr<RandomProblem> MakeRandomProblem(uint64_t seed, int64_t index, const ProblemRange& range) {
  // Streams of neighbouring cases must not overlap: the index goes through the generator once.
  Random random(Random(seed + static_cast<uint64_t>(index)).Next());
  auto problem = std::make_unique<RandomProblem>();
  const Geometry g = DrawGeometry(random, index, range);
  const DType dtype = range.dtypes[static_cast<size_t>(index) % range.dtypes.size()];
  AttendCall& call = problem->call;
  problem->q = DrawTensor(random, g, dtype, g.q_lens, g.q_extent, g.q_heads, g.dim_qk, call.q_scales);
  problem->k = DrawTensor(random, g, dtype, g.kv_lens, g.kv_extent, g.kv_heads, g.dim_qk, call.k_scales);
  problem->v = DrawTensor(random, g, dtype, g.kv_lens, g.kv_extent, g.kv_heads, g.dim_v, call.v_scales);
  call.id = absl::StrCat("verify-", seed, "-", index);
  call.layout = g.layout;
  call.q = problem->q.view();
  call.k = problem->k.view();
  call.v = problem->v.view();
  call.q_lens = g.q_lens;
  call.kv_lens = g.kv_lens;
  if (g.q_heads > g.kv_heads) problem->features.push_back("gqa");
  DrawVisibility(random, g, *problem);
  DrawScores(random, g, *problem);
  DrawMasks(random, g, *problem);
  if (random.Chance(0.3)) {
    call.output_dtype = random.Pick({v1::DATA_TYPE_FP32, v1::DATA_TYPE_FP16, v1::DATA_TYPE_BF16});
    problem->features.push_back(absl::StrCat("out ", DTypeName(call.output_dtype)));
  }
  if (random.Chance(0.7)) {
    call.want_lse = true;
    problem->features.push_back("lse");
  }
  return problem;
}

}  // namespace tessera::client
