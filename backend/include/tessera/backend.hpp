// A thin C++17 helper over the plugin ABI of tessera/backend.h: derive from tessera::plugin::Backend, say
// what it does in Describe(), compute in Enqueue(), and name the class in TESSERA_EXPORT_BACKEND. Errors are
// thrown; the functions that the macro exports turn them into codes and messages. Header-only, standard
// library only.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "tessera/backend.h"
#include "tessera/e4m3.hpp"

namespace tessera::plugin {

using Problem = tessera_attention_problem;

// Throw it to fail with a code of your choice; std::bad_alloc becomes RESOURCE_EXHAUSTED, any other INTERNAL.
class Error : public std::runtime_error {
 public:
  Error(tessera_code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  tessera_code code() const { return code_; }

 private:
  tessera_code code_;
};

constexpr uint32_t DTypeBit(tessera_dtype dtype) { return uint32_t{1} << dtype; }

// What a backend is called and can do. Strings are literals, or live as long as the backend.
struct Description {
  const char* name;  // [a-z][a-z0-9_]*, unique in the server
  const char* version;
  const char* summary;     // one line
  int auto_priority = -1;  // `auto` takes the highest that supports the problem; negative: only by name
  uint32_t features = 0;   // union of tessera_feature
  uint32_t input_dtypes = DTypeBit(TESSERA_DTYPE_FP32);
  uint32_t output_dtypes = DTypeBit(TESSERA_DTYPE_FP32);
  int max_head_dim = 256;
  int head_dim_multiple = 1;
};

// The functions of tessera_backend_table with the same contracts. Constructed once, when the plugin is
// loaded, by a constructor that takes the host.
class Backend {
 public:
  // `host` is valid until the destructor returns.
  explicit Backend(const tessera_host& host) : host_(host) {}
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  virtual Description Describe() const = 0;

  // A device of its own, valid as long as the backend; by default the backend runs on the host CPU.
  virtual const tessera_device_table* Device() { return nullptr; }

  // Throws Error(TESSERA_UNIMPLEMENTED, what is missing) where Describe() promises too much for `problem`.
  virtual void Supports(const Problem& /*problem*/) const {}

  // Fills the zero-initialised `plan`. Launches nothing; data pointers may be null.
  virtual void Plan(const Problem& problem, tessera_plan& plan) const = 0;

  // Fills the zero-initialised `traffic`, which 0 leaves unknown. Like Plan, but no work waits for it.
  virtual void ModelTraffic(const tessera_plan& /*plan*/, const Problem& /*problem*/,
                            tessera_traffic& /*traffic*/) const {}

  // Computes o and lse. `workspace` has plan.workspace_bytes.
  virtual void Enqueue(const tessera_plan& plan, const Problem& problem, void* workspace,
                       tessera_stream* stream) = 0;

 protected:
  // Runs body(task, worker) for every task in [0, num_tasks) on the server's threads; see tessera_host. The
  // first exception of a body is rethrown when all are done, and tasks not yet started are then skipped.
  template <typename Body>
  void ParallelFor(tessera_stream* stream, int64_t num_tasks, Body body) const {
    struct Region {
      Body& body;
      std::atomic<bool> failed{false};
      std::mutex mutex;
      std::exception_ptr error;
    } region{body, {}, {}, {}};
    host_.parallel_for(
        stream, num_tasks,
        [](void* context, int64_t task, int32_t worker) {
          Region& r = *static_cast<Region*>(context);
          if (r.failed.load(std::memory_order_relaxed)) return;
          try {
            r.body(task, worker);
          } catch (...) {
            const std::lock_guard<std::mutex> lock(r.mutex);
            if (!r.failed.exchange(true)) r.error = std::current_exception();
          }
        },
        &region);
    if (region.error) std::rethrow_exception(region.error);
  }

  const tessera_host& host() const { return host_; }

 private:
  const tessera_host& host_;
};

// ---- Reading and writing a problem
// ----------------------------------------------------------------------------

template <typename To, typename From>
To BitCast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

inline float BFloat16ToFloat(uint16_t bits) { return BitCast<float>(uint32_t{bits} << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = BitCast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float HalfToFloat(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{bits & 0x7fffu} << 13;
  const bool infinity_or_nan = (bits & 0x7c00u) == 0x7c00u;
  // Moves the exponent from fp16's bias (15) to fp32's (127), subnormals included.
  const float rebiased = BitCast<float>(magnitude) * 0x1p112f;
  return BitCast<float>(sign | (infinity_or_nan ? magnitude | 0x7f800000u : BitCast<uint32_t>(rebiased)));
}

// Rounds to nearest, ties to even; past the largest fp16 becomes infinity; NaN stays NaN.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = BitCast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 fp16 is a multiple of 2^-24, which is what fp32 keeps of a number in [0.5, 1).
    half = BitCast<uint32_t>(BitCast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}

// Elements [index, index + count) of fp32, fp16, bf16 or fp8 memory, as fp32; fp8 without its scale.
inline void Load(const void* data, tessera_dtype dtype, int64_t index, int64_t count, float* values) {
  const auto* const words = static_cast<const uint16_t*>(data);
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      std::copy_n(static_cast<const float*>(data) + index, count, values);
      return;
    case TESSERA_DTYPE_FP16:
      std::transform(words + index, words + index + count, values, HalfToFloat);
      return;
    case TESSERA_DTYPE_BF16:
      std::transform(words + index, words + index + count, values, BFloat16ToFloat);
      return;
    case TESSERA_DTYPE_FP8_E4M3: {
      const auto* const codes = static_cast<const uint8_t*>(data);
      std::transform(codes + index, codes + index + count, values, E4M3ToFloat);
      return;
    }
    default:
      throw Error(TESSERA_UNIMPLEMENTED, "cannot load elements of dtype " + std::to_string(dtype));
  }
}

// The inverse of Load for output dtypes: each value is rounded once.
inline void Store(const float* values, int64_t count, void* data, tessera_dtype dtype, int64_t index) {
  auto* const words = static_cast<uint16_t*>(data);
  switch (dtype) {
    case TESSERA_DTYPE_FP32:
      std::copy_n(values, count, static_cast<float*>(data) + index);
      return;
    case TESSERA_DTYPE_FP16:
      std::transform(values, values + count, words + index, FloatToHalf);
      return;
    case TESSERA_DTYPE_BF16:
      std::transform(values, values + count, words + index, FloatToBFloat16);
      return;
    default:
      throw Error(TESSERA_UNIMPLEMENTED, "cannot store elements of dtype " + std::to_string(dtype));
  }
}

// What the elements of `sequence`, one of problem.sequences, and `head` are multiplied by in the fp8 tensor
// of `scales`, problem.q_scales say.
inline float ScaleOf(const Problem& problem, const tessera_scales& scales, const tessera_sequence& sequence,
                     int64_t head) {
  if (scales.data == nullptr) return 1;
  return scales.data[(&sequence - problem.sequences) * scales.sequence_stride + head * scales.head_stride];
}

// Index of element (begin + token, head, 0). `begin` is the sequence's q_begin or kv_begin.
inline int64_t RowIndex(const tessera_tensor& tensor, int64_t begin, int64_t token, int64_t head) {
  return (begin + token) * tensor.token_stride + head * tensor.head_stride;
}

// The keys that the sequence's length and window show to query i: [begin, end), empty where begin == end.
struct KeyRange {
  int64_t begin, end;
};
inline KeyRange VisibleKeys(const tessera_sequence& sequence, int64_t i) {
  const int64_t diagonal = i + sequence.diagonal_offset;
  KeyRange keys{0, sequence.kv_len};
  if (sequence.window_left >= 0)
    keys.begin = std::clamp(diagonal - sequence.window_left, keys.begin, keys.end);
  if (sequence.window_right >= 0)
    keys.end = std::clamp(diagonal + sequence.window_right + 1, keys.begin, keys.end);
  return keys;
}

// What the problem's mask adds to the logit of (head, query i, key j): 0 without one, -inf where the key is
// hidden.
inline float MaskValue(const Problem& problem, const tessera_sequence& sequence, int64_t head, int64_t i,
                       int64_t j) {
  if (problem.mask_kind == TESSERA_MASK_NONE) return 0;
  const int64_t index =
      head * sequence.mask_head_stride + i * sequence.mask_q_stride + j * sequence.mask_kv_stride;
  if (problem.mask_kind == TESSERA_MASK_BOOLEAN)
    return static_cast<const uint8_t*>(sequence.mask)[index] != 0 ? 0
                                                                  : -std::numeric_limits<float>::infinity();
  float value;
  Load(sequence.mask, problem.mask_dtype, index, 1, &value);
  return value;
}

// ---- The C functions that TESSERA_EXPORT_BACKEND exports
// ------------------------------------------------------

namespace internal {

inline tessera_code Fail(tessera_code code, const char* text, tessera_message* message) {
  if (message != nullptr && message->text != nullptr && message->capacity > 0) {
    const size_t length = std::min(std::strlen(text), message->capacity - 1);
    std::memcpy(message->text, text, length);
    message->text[length] = '\0';
  }
  return code;
}

// Runs `body`, and turns what it throws into a code and a message.
template <typename Body>
tessera_code Guard(tessera_message* message, Body body) {
  try {
    body();
    return TESSERA_OK;
  } catch (const Error& error) {
    return Fail(error.code(), error.what(), message);
  } catch (const std::bad_alloc&) {
    return Fail(TESSERA_RESOURCE_EXHAUSTED, "out of host memory", message);
  } catch (const std::exception& error) {
    return Fail(TESSERA_INTERNAL, error.what(), message);
  } catch (...) {
    return Fail(TESSERA_INTERNAL, "an exception of unknown type", message);
  }
}

// Copies `from` to the caller's struct, no further than the caller's struct_size, which stays as it is.
template <typename Struct>
void CopyPrefix(const Struct& from, Struct* to) {
  const uint32_t size = to->struct_size;
  std::memcpy(static_cast<void*>(to), &from, std::min<size_t>(size, sizeof(Struct)));
  to->struct_size = size;
}

// A backend and the tables that describe it; what table.self points to.
struct Instance {
  explicit Instance(std::unique_ptr<Backend> implementation) : backend(std::move(implementation)) {
    const Description d = backend->Describe();
    version = d.version;
    capabilities = {sizeof(capabilities), d.features,     d.input_dtypes,
                    d.output_dtypes,      d.max_head_dim, d.head_dim_multiple};
    table = {sizeof(table), this,          d.name,    d.summary,    d.auto_priority,
             &capabilities, &CallSupports, &CallPlan, &CallEnqueue, &CallModelTraffic};
  }

  static Backend& Of(void* self) { return *static_cast<Instance*>(self)->backend; }
  static tessera_code CallSupports(void* self, const Problem* problem, tessera_message* message) {
    return Guard(message, [&] { Of(self).Supports(*problem); });
  }
  static tessera_code CallPlan(void* self, const Problem* problem, tessera_plan* plan,
                               tessera_message* message) {
    return Guard(message, [&] {
      tessera_plan filled{};
      Of(self).Plan(*problem, filled);
      CopyPrefix(filled, plan);
    });
  }
  static tessera_code CallEnqueue(void* self, const tessera_plan* plan, const Problem* problem,
                                  void* workspace, tessera_stream* stream, tessera_message* message) {
    return Guard(message, [&] { Of(self).Enqueue(*plan, *problem, workspace, stream); });
  }
  static tessera_code CallModelTraffic(void* self, const tessera_plan* plan, const Problem* problem,
                                       tessera_traffic* traffic, tessera_message* message) {
    return Guard(message, [&] {
      tessera_traffic filled{};
      Of(self).ModelTraffic(*plan, *problem, filled);
      CopyPrefix(filled, traffic);
    });
  }
  static void Destroy(void* self) { delete static_cast<Instance*>(self); }

  std::unique_ptr<Backend> backend;
  const char* version;
  tessera_capabilities capabilities;
  tessera_backend_table table;
};

// The body of tessera_plugin_create.
template <typename BackendType>
tessera_code Create(const tessera_host* host, tessera_plugin* plugin, tessera_message* message) {
  return Guard(message, [&] {
    if (host->struct_size < sizeof(tessera_host) || plugin->struct_size < sizeof(tessera_plugin))
      throw Error(TESSERA_FAILED_PRECONDITION, "the server's structs are shorter than those of this plugin");
    auto instance = std::make_unique<Instance>(std::make_unique<BackendType>(*host));
    const tessera_device_table* const device = instance->backend->Device();
    const tessera_plugin filled{sizeof(tessera_plugin), TESSERA_ABI_VERSION, instance->table.name,
                                instance->version,      &instance->table,    device,
                                &Instance::Destroy};
    CopyPrefix(filled, plugin);
    instance.release();  // to Destroy
  });
}

}  // namespace internal
}  // namespace tessera::plugin

// Exports `BackendType`, a tessera::plugin::Backend with a constructor that takes const tessera_host&, as the
// plugin of this shared library. Once per library, outside any namespace.
#define TESSERA_EXPORT_BACKEND(BackendType)                                            \
  extern "C" __attribute__((visibility("default"))) uint32_t TESSERA_PLUGIN_ABI() {    \
    return TESSERA_ABI_VERSION;                                                        \
  }                                                                                    \
  extern "C" __attribute__((visibility("default"))) tessera_code TESSERA_PLUGIN_ENTRY( \
      const tessera_host* host, tessera_plugin* plugin, tessera_message* message) {    \
    return ::tessera::plugin::internal::Create<BackendType>(host, plugin, message);    \
  }
