// The softmax between the two products of standard attention. A block takes a row of scores and holds it in
// registers, so that it is read once and its weights are written over it; rows that are too long for that are
// read twice (online softmax, arXiv:1805.02867).
#include <algorithm>

#include "kernels/cuda/logits.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/standard_kernels.h"

namespace tessera::kernels::cuda {
namespace {

// How a block holds a row: kScores scores to a thread, 4 neighbouring keys at a time.
struct Rows8k {
  static constexpr int kMaxThreads = 512, kBlocksPerMultiprocessor = 3, kScores = 16;
};
struct Rows16k {
  static constexpr int kMaxThreads = 512, kBlocksPerMultiprocessor = 2, kScores = 32;
};
// The part of a long row that is held at a time.
struct LongRows {
  static constexpr int kMaxThreads = 512, kBlocksPerMultiprocessor = 2, kScores = 16;
};
constexpr int kVector = 4;
constexpr int kWarpSize = 32;
constexpr int kMaxWarps = Rows8k::kMaxThreads / kWarpSize;
static_assert(Rows16k::kMaxThreads <= Rows8k::kMaxThreads && LongRows::kMaxThreads <= Rows8k::kMaxThreads);

// One value of each warp, for the block's maximum and for its sums.
struct SoftmaxShared {
  float maxima[kMaxWarps], sums[kMaxWarps], weight_sums[kMaxWarps];
};

struct Max {
  static constexpr float kIdentity = -INFINITY;
  // Not a NaN unless both are: the sum of the exponentials keeps it.
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};
struct Sum {
  static constexpr float kIdentity = 0;
  __device__ float operator()(float a, float b) const { return a + b; }
};

template <class Operation>
__device__ float ReduceWarp(float value, Operation operation) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes > 0; lanes /= 2) {
    value = operation(value, __shfl_xor_sync(0xffffffff, value, lanes));
  }
  return value;
}

// The same value in every thread. `partials` is used for one reduction of a block.
template <class Operation>
__device__ float ReduceBlock(float value, float* partials, Operation operation) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  value = ReduceWarp(value, operation);
  if (lane == 0) partials[warp] = value;
  __syncthreads();
  return ReduceWarp(lane < warps ? partials[lane] : Operation::kIdentity, operation);
}

// The row of a block, and what its logits depend on.
struct SoftmaxRow {
  const DeviceSequence* sequence;
  int32_t head, query, kv_len;
  float scale;  // of the scores
  RowWindow window;
  RowFeatures features;
  float* scores;
};

__device__ SoftmaxRow FindRow(const DeviceProblem& p, const ScoreRows& rows) {
  SoftmaxRow row;
  const uint32_t index = blockIdx.x;
  const uint32_t q_len = p.sequences()[0].q_len, num_heads = p.num_q_heads;
  row.query = static_cast<int32_t>(index % q_len);
  row.head = static_cast<int32_t>(index / q_len % num_heads);
  row.sequence = p.sequences() + index / q_len / num_heads;
  // One row to a query: a row head is a query head, and its queries are the rows.
  const BlockWork work(*row.sequence, /*rows_per_query=*/1, row.head, row.head / p.group, row.query);
  row.kv_len = work.sequence.kv_len;
  row.window = WindowOf(work, row.query);
  row.features = FeaturesOf(p, work, row.query);
  row.scale = p.q.dtype == TESSERA_DTYPE_FP8_E4M3 ? p.logit_scales(*row.sequence)[row.head] : p.scale;
  row.scores = rows.scores + int64_t{index} * rows.row_stride;
  return row;
}

// The part of a row that a block holds from key `first_key` on: score e of a thread is that of key Key(e).
template <class Config>
struct HeldScores {
  static constexpr int kVectors = Config::kScores / kVector;

  int32_t first_key;
  float x[Config::kScores];

  __device__ int32_t Key(int e) const {
    return first_key +
           (e / kVector * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector +
           e % kVector;
  }

  // Scores of keys outside the window are not read.
  __device__ void Load(const SoftmaxRow& row) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int32_t key = Key(v * kVector);
      float4 scores = {0, 0, 0, 0};
      if (key <= row.window.last_key && key + kVector > row.window.first_key) {
        scores = *reinterpret_cast<const float4*>(row.scores + key);
      }
      x[v * kVector] = scores.x * row.scale;
      x[v * kVector + 1] = scores.y * row.scale;
      x[v * kVector + 2] = scores.z * row.scale;
      x[v * kVector + 3] = scores.w * row.scale;
    }
  }

  // From scaled scores to logits; -inf where the key is hidden, whatever its score was.
  __device__ void Shape(const DeviceProblem& p, const SoftmaxRow& row) {
    if (p.softcap > 0) {
#pragma unroll
      for (float& score : x) score = p.softcap * tanhf(score / p.softcap);
    }
    if (p.has_alibi) {
#pragma unroll
      for (int e = 0; e < Config::kScores; ++e) x[e] += AlibiBias(row.features, Key(e));
    }
    if (p.mask_kind != TESSERA_MASK_NONE) {
#pragma unroll
      for (int e = 0; e < Config::kScores; ++e) {
        if (!row.window.Shows(Key(e))) continue;
        const float value = MaskValue(p, row.features, Key(e));
        x[e] = value == NegativeInfinity() ? value : x[e] + value;
      }
    }
#pragma unroll
    for (int e = 0; e < Config::kScores; ++e) {
      if (!row.window.Shows(Key(e))) x[e] = NegativeInfinity();
    }
  }

  __device__ float Largest() const {
    float largest = NegativeInfinity();
#pragma unroll
    for (float logit : x) largest = fmaxf(largest, logit);
    return largest;
  }

  // Turns logits into exp(x - shift), and returns their sum.
  __device__ float Exponentials(float shift) {
    float sum = 0;
#pragma unroll
    for (float& logit : x) {
      logit = expf(logit - shift);
      sum += logit;
    }
    return sum;
  }

  // Writes the weights times `factor`, hidden ones too. 16-bit weights fill the first half of the row;
  // returns the sum of those, as rounded.
  __device__ float Store(const SoftmaxRow& row, tessera_dtype dtype, float factor) const {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int32_t key = Key(v * kVector);
      if (key >= row.kv_len) continue;
      const float* const w = x + v * kVector;
      const float4 weights = {w[0] * factor, w[1] * factor, w[2] * factor, w[3] * factor};
      if (dtype == TESSERA_DTYPE_FP32) {
        *reinterpret_cast<float4*>(row.scores + key) = weights;
      } else if (dtype == TESSERA_DTYPE_BF16) {
        sum += Store16Bit<__nv_bfloat16>(row.scores, key, weights);
      } else {
        sum += Store16Bit<__half>(row.scores, key, weights);
      }
    }
    return sum;
  }

 private:
  template <typename Element>
  __device__ static float Store16Bit(float* scores, int32_t key, const float4& w) {
    const uint2 packed = {ptx::Pack(Element{}, w.x, w.y), ptx::Pack(Element{}, w.z, w.w)};
    *reinterpret_cast<uint2*>(reinterpret_cast<Element*>(scores) + key) = packed;
    const auto* const rounded = reinterpret_cast<const Element*>(&packed);
    return (ToFloat(rounded[0]) + ToFloat(rounded[1])) + (ToFloat(rounded[2]) + ToFloat(rounded[3]));
  }
  __device__ static float ToFloat(__nv_bfloat16 weight) { return __bfloat162float(weight); }
  __device__ static float ToFloat(__half weight) { return __half2float(weight); }
};

// The weight of the largest logit before it is normalised. fp16: high, or small weights would be subnormal.
// bf16: so low that no sum over finite V overflows; exponents are left below it.
__device__ float LargestWeight(tessera_dtype dtype) {
  switch (dtype) {
    case TESSERA_DTYPE_FP16:
      return 16384.0f;
    case TESSERA_DTYPE_BF16:
      return 1.0f / kStandardMaxKeys;
    default:
      return 1;
  }
}

// What is subtracted from the logits: their maximum, but 0 for a row that sees nothing: exp(-inf - 0) is 0.
__device__ float ShiftOf(float row_max) { return row_max == NegativeInfinity() ? 0.0f : row_max; }

__device__ float SinkOf(const DeviceProblem& p, const SoftmaxRow& row) {
  return p.has_sinks ? p.sinks()[row.head] : NegativeInfinity();
}

// The sums of a row, of exp(logit - ShiftOf(row_max)) over its keys and of what the sink adds.
struct RowSums {
  float row_max, keys, sink;

  // By which weights that add up to `weights` are normalised, sink included, when their largest is `largest`.
  __device__ float Normaliser(float weights, float largest) const {
    return keys == 0 ? 0.0f : 1 / (weights + largest * sink);
  }
};

__device__ RowSums SumsOf(float row_max, float keys, float sink) {
  return {row_max, keys, expf(sink - ShiftOf(row_max))};
}

// The sink may exceed every logit by more than an exponential holds.
__device__ void StoreLse(const DeviceProblem& p, const SoftmaxRow& row, const RowSums& sums, float sink) {
  if (p.lse == nullptr || threadIdx.x != 0) return;
  const float shift = ShiftOf(fmaxf(sums.row_max, sink));
  const float sum = sums.keys * expf(sums.row_max - shift) + expf(sink - shift);
  p.lse[(row.sequence->q_begin + row.query) * p.lse_token_stride + row.head * p.lse_head_stride] =
      shift + logf(sum);
}

// By which exponentials become weights as they are written.
__device__ float WeightFactor(const ScoreRows& rows, const RowSums& sums) {
  return rows.weights_dtype == TESSERA_DTYPE_FP32 ? sums.Normaliser(sums.keys, 1)
                                                  : LargestWeight(rows.weights_dtype);
}

// `thread_weights`: the sum of the weights that this thread wrote.
__device__ void StoreRowScale(const ScoreRows& rows, const RowSums& sums, float thread_weights,
                              SoftmaxShared& shared) {
  if (rows.row_scales == nullptr) return;
  const float weights = ReduceBlock(thread_weights, shared.weight_sums, Sum{});
  if (threadIdx.x != 0) return;
  rows.row_scales[blockIdx.x] = sums.Normaliser(weights, LargestWeight(rows.weights_dtype));
}

// A row that a block holds as a whole.
template <class Config>
__device__ void HeldSoftmax(const DeviceProblem& p, const ScoreRows& rows, SoftmaxShared& shared) {
  const SoftmaxRow row = FindRow(p, rows);
  HeldScores<Config> held{.first_key = 0};
  held.Load(row);
  held.Shape(p, row);

  const float sink = SinkOf(p, row);
  const float row_max = ReduceBlock(held.Largest(), shared.maxima, Max{});
  const float keys = ReduceBlock(held.Exponentials(ShiftOf(row_max)), shared.sums, Sum{});
  const RowSums sums = SumsOf(row_max, keys, sink);
  StoreLse(p, row, sums, sink);
  const float thread_weights = held.Store(row, rows.weights_dtype, WeightFactor(rows, sums));
  StoreRowScale(rows, sums, thread_weights, shared);
}

// A row of any length, in parts; each thread keeps a maximum and a sum of its own until the end.
template <class Config>
__device__ void StreamedSoftmax(const DeviceProblem& p, const ScoreRows& rows, SoftmaxShared& shared) {
  const SoftmaxRow row = FindRow(p, rows);
  const int32_t part_keys = Config::kScores * static_cast<int32_t>(blockDim.x);
  HeldScores<Config> held;
  float thread_max = NegativeInfinity(), thread_sum = 0;
  const int32_t first_part = row.window.first_key / part_keys * part_keys;
  for (held.first_key = first_part; held.first_key <= row.window.last_key; held.first_key += part_keys) {
    held.Load(row);
    held.Shape(p, row);
    const float new_max = fmaxf(thread_max, held.Largest());
    thread_sum *= expf(thread_max - ShiftOf(new_max));
    thread_sum += held.Exponentials(ShiftOf(new_max));
    thread_max = new_max;
  }

  const float sink = SinkOf(p, row);
  const float row_max = ReduceBlock(thread_max, shared.maxima, Max{});
  thread_sum *= expf(thread_max - ShiftOf(row_max));
  const RowSums sums = SumsOf(row_max, ReduceBlock(thread_sum, shared.sums, Sum{}), sink);
  StoreLse(p, row, sums, sink);
  const float factor = WeightFactor(rows, sums);

  float thread_weights = 0;
  for (held.first_key = 0; held.first_key < row.kv_len; held.first_key += part_keys) {
    held.Load(row);
    held.Shape(p, row);
    held.Exponentials(ShiftOf(row_max));
    __syncthreads();  // weights of this part overwrite scores of this part only, or of earlier ones
    thread_weights += held.Store(row, rows.weights_dtype, factor);
  }
  StoreRowScale(rows, sums, thread_weights, shared);
}

}  // namespace

extern "C" {

__global__ void __launch_bounds__(Rows8k::kMaxThreads, Rows8k::kBlocksPerMultiprocessor)
    tessera_standard_softmax_8k(const __grid_constant__ DeviceProblem wave, const ScoreRows rows) {
  __shared__ SoftmaxShared shared;
  HeldSoftmax<Rows8k>(wave, rows, shared);
}

__global__ void __launch_bounds__(Rows16k::kMaxThreads, Rows16k::kBlocksPerMultiprocessor)
    tessera_standard_softmax_16k(const __grid_constant__ DeviceProblem wave, const ScoreRows rows) {
  __shared__ SoftmaxShared shared;
  HeldSoftmax<Rows16k>(wave, rows, shared);
}

__global__ void __launch_bounds__(LongRows::kMaxThreads, LongRows::kBlocksPerMultiprocessor)
    tessera_standard_softmax_long(const __grid_constant__ DeviceProblem wave, const ScoreRows rows) {
  __shared__ SoftmaxShared shared;
  StreamedSoftmax<LongRows>(wave, rows, shared);
}

}  // extern "C"

namespace {

// Threads that hold `num_keys` scores, kScores each.
template <class Config>
int32_t ThreadsFor(int32_t num_keys) {
  constexpr int32_t kWarpKeys = kWarpSize * Config::kScores;
  return std::clamp((num_keys + kWarpKeys - 1) / kWarpKeys * kWarpSize, kWarpSize, Config::kMaxThreads);
}

template <class Config>
constexpr int32_t kMostHeld = Config::kMaxThreads* Config::kScores;

}  // namespace

SoftmaxKernel ChooseSoftmax(int32_t num_keys) {
  if (num_keys <= kMostHeld<Rows8k>) {
    return {"tessera_standard_softmax_8k", reinterpret_cast<const void*>(tessera_standard_softmax_8k),
            ThreadsFor<Rows8k>(num_keys)};
  }
  if (num_keys <= kMostHeld<Rows16k>) {
    return {"tessera_standard_softmax_16k", reinterpret_cast<const void*>(tessera_standard_softmax_16k),
            ThreadsFor<Rows16k>(num_keys)};
  }
  return {"tessera_standard_softmax_long", reinterpret_cast<const void*>(tessera_standard_softmax_long),
          LongRows::kMaxThreads};
}

cudaError_t LaunchSoftmax(const DeviceProblem& wave, const WaveLengths& lengths, const ScoreRows& rows,
                          cudaStream_t stream) {
  const SoftmaxKernel kernel = ChooseSoftmax(lengths.kv_len);
  const int64_t blocks = int64_t{wave.num_sequences} * wave.num_q_heads * lengths.q_len;
  void* arguments[] = {const_cast<DeviceProblem*>(&wave), const_cast<ScoreRows*>(&rows)};
  return cudaLaunchKernel(kernel.function, dim3(static_cast<unsigned>(blocks)),
                          dim3(static_cast<unsigned>(kernel.threads)), arguments, 0, stream);
}

}  // namespace tessera::kernels::cuda
