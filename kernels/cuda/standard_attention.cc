#include "kernels/cuda/standard_attention.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/device_problem.h"
#include "kernels/cuda/standard_wave.h"

namespace tessera::kernels::cuda {
namespace {

constexpr int64_t kPartAlignment = 256;  // cuBLAS asks for it
static_assert(kPartAlignment % Cublas::kWorkspaceAlignment == 0);
constexpr int64_t kGivenAlignment = 64;  // of the workspace

int64_t Narrow(Int128 value) { return static_cast<int64_t>(std::min<Int128>(value, INT64_MAX)); }

Int128 Aligned(Int128 bytes) { return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment; }

// Waves run one after another in the same workspace.
PartBytes LargestParts(const tessera_attention_problem& problem) {
  PartBytes largest{};
  ForEachWave(problem, [&](const StandardWave& wave) {
    const PartBytes parts = wave.Parts();
    for (size_t i = 0; i < parts.size(); ++i) largest[i] = std::max(largest[i], parts[i]);
    return true;
  });
  return largest;
}

Int128 WorkspaceBytes(const PartBytes& parts) {
  Int128 bytes = 0;
  for (const Int128 part : parts) bytes += Aligned(part);
  return bytes == 0 ? 0 : bytes + kPartAlignment - kGivenAlignment;
}

// Where the parts lie in `workspace`.
StandardWave::PartPointers Place(const PartBytes& parts, void* workspace) {
  StandardWave::PartPointers pointers{};
  const auto address = reinterpret_cast<uintptr_t>(workspace);
  uintptr_t next = (address + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
  for (size_t i = 0; i < parts.size(); ++i) {
    pointers[i] = reinterpret_cast<void*>(next);
    next += static_cast<uintptr_t>(Aligned(parts[i]));
  }
  return pointers;
}

std::string Refusal(const tessera_attention_problem& problem) {
  std::string limit = IndexLimit(problem, WholeGroups(problem, /*tile_q=*/1));
  if (!limit.empty()) return limit;
  for (int64_t n = 0; n < problem.num_sequences; ++n) {
    const int64_t keys = problem.sequences[n].kv_len;
    if (keys < kStandardMaxKeys) continue;
    return std::to_string(keys) + " keys of sequence " + std::to_string(n) + ", expected fewer than " +
           std::to_string(kStandardMaxKeys);
  }
  return "";
}

// Queues the waves of one problem.
class StandardRun {
 public:
  StandardRun(const DeviceTraits& traits, Cublas::Calls& calls, const StandardWave::PartPointers& parts,
              cudaStream_t stream)
      : traits_(traits), calls_(calls), parts_(parts), stream_(stream) {}

  // cudaErrorUnknown where cuBLAS has refused a call: it has the reason.
  cudaError_t Run(const StandardWave& wave) {
    const tessera_attention_problem problem = wave.Problem();
    Then([&] {
      // Equal sequences keep their order.
      return MakeDeviceProblem(problem, WholeGroups(problem, /*tile_q=*/1), /*l2_bytes=*/0,
                               part(StandardPart::kTables), stream_, &device_);
    });
    if (wave.has_keys()) {
      PackOperands(wave, problem);
      Then([&] { return Product(wave.ScoreProduct(parts_)); });
      Then([&] { return Softmax(wave); });
      for (int32_t chunk = 0; chunk < wave.num_chunks(); ++chunk) {
        Then([&] { return Product(wave.ValueProduct(parts_, chunk)); });
      }
      if (wave.stores_values()) {
        Then([&] {
          return Store(wave, {static_cast<const float*>(part(StandardPart::kValues)), RowScales(wave)});
        });
      }
      if (wave.hides_keys()) {
        Then([&] {
          return LaunchRestoreNonFinite(device_, wave.lengths(), NonFinite(), traits_.multiprocessors,
                                        stream_);
        });
      }
    } else {
      Then([&] { return Softmax(wave); });
      Then([&] { return Store(wave, {}); });
    }
    return error_;
  }

 private:
  void* part(StandardPart part) const { return parts_[static_cast<size_t>(part)]; }

  template <typename Step>
  void Then(Step step) {
    if (error_ == cudaSuccess) error_ = step();
  }

  // The flag, and the marks behind it.
  NonFiniteRows NonFinite() const {
    auto* const memory = static_cast<uint8_t*>(part(StandardPart::kNonFinite));
    return {reinterpret_cast<int32_t*>(memory), memory + kNonFiniteFlagBytes};
  }

  void PackOperands(const StandardWave& wave, const tessera_attention_problem& p) {
    const auto pack = [&](const WaveTensor& from, const WaveTensor& to, int32_t heads, int32_t tokens,
                          int32_t dim, const NonFiniteRows& non_finite) {
      Then([&] {
        return LaunchPack({.from = from,
                           .to = to,
                           .sequences = static_cast<int32_t>(wave.count()),
                           .heads = heads,
                           .tokens = tokens,
                           .dim = dim,
                           .non_finite = non_finite},
                          traits_.multiprocessors, stream_);
      });
    };
    const auto& [q_len, kv_len] = wave.lengths();
    if (wave.packs_q()) {
      pack(wave.Query(), wave.PackedQuery(parts_), p.num_q_heads, q_len, p.head_dim_qk, {});
    }
    if (wave.packs_k()) {
      pack(wave.Key(), wave.PackedKey(parts_), p.num_kv_heads, kv_len, p.head_dim_qk, {});
    }
    if (wave.hides_keys()) {
      Then([&] { return cudaMemsetAsync(NonFinite().any, 0, sizeof(int32_t), stream_); });
    }
    if (wave.packs_v()) {
      pack(wave.Value(), wave.PackedValue(parts_), p.num_kv_heads, kv_len, p.head_dim_v,
           wave.hides_keys() ? NonFinite() : NonFiniteRows{});
    }
  }

  cudaError_t Product(const WaveProduct& product) {
    return QueueProduct(product, calls_) ? cudaSuccess : cudaErrorUnknown;
  }

  cudaError_t Softmax(const StandardWave& wave) {
    const ScoreRows rows{.scores = static_cast<float*>(part(StandardPart::kScores)),
                         .row_stride = wave.score_stride(),
                         .weights_dtype = wave.operand_dtype(),
                         .row_scales = RowScales(wave)};
    return LaunchSoftmax(device_, wave.lengths(), rows, stream_);
  }

  float* RowScales(const StandardWave& wave) const {
    return wave.scales_values() ? static_cast<float*>(part(StandardPart::kRowScales)) : nullptr;
  }

  cudaError_t Store(const StandardWave& wave, const ValueRows& rows) {
    return LaunchStore(device_, wave.lengths(), rows, traits_.multiprocessors, stream_);
  }

  const DeviceTraits& traits_;
  Cublas::Calls& calls_;
  const StandardWave::PartPointers& parts_;
  const cudaStream_t stream_;
  DeviceProblem device_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace

StandardChoice ChooseStandard(const tessera_attention_problem& problem, const DeviceTraits& traits) {
  StandardChoice choice{};
  choice.refusal = Refusal(problem);
  if (!choice.refusal.empty()) return choice;
  choice.kernel = ChooseSoftmax(0).name;
  int64_t most_scores = 0;
  WaveTraffic traffic{};
  ForEachWave(problem, [&](const StandardWave& wave) {
    choice.launches += wave.Launches();
    const WaveTraffic of_wave = wave.Traffic(traits.l2_bytes);
    traffic.read += of_wave.read;
    traffic.write += of_wave.write;
    if (wave.num_scores() > most_scores) {
      most_scores = wave.num_scores();
      choice.kernel = ChooseSoftmax(wave.lengths().kv_len).name;
    }
    return true;
  });
  choice.workspace_bytes = Narrow(WorkspaceBytes(LargestParts(problem)));
  choice.hbm_read_bytes = Narrow(traffic.read);
  choice.hbm_write_bytes = Narrow(traffic.write);
  return choice;
}

StandardStatus StandardAttention(const tessera_attention_problem& problem, const DeviceTraits& traits,
                                 Cublas& blas, void* workspace, cudaStream_t stream) {
  const PartBytes bytes = LargestParts(problem);
  const StandardWave::PartPointers parts = Place(bytes, workspace);
  constexpr auto kCublas = static_cast<size_t>(StandardPart::kCublas);
  Cublas::Calls calls(blas, stream, parts[kCublas], static_cast<size_t>(bytes[kCublas]));
  StandardRun run(traits, calls, parts, stream);
  StandardStatus status{.cuda = cudaSuccess, .cublas = calls.error()};
  if (status.cublas != nullptr) return status;
  ForEachWave(problem, [&](const StandardWave& wave) {
    status.cuda = run.Run(wave);
    return status.cuda == cudaSuccess;
  });
  status.cublas = calls.error();
  return status;
}

}  // namespace tessera::kernels::cuda
