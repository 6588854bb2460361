// A Device for tests whose streams run behind the caller's back, as a GPU's do: each is a thread. And a
// Backend for it. What either does can be watched, held and made to fail.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/device.h"
#include "tests/backend/fake_backend.h"
#include "tests/plugins/fenced/fenced_stream.h"
#include "tests/server/reference_backend.h"

namespace tessera::testing {

// A copy or a piece of work that throws is a late error: the next event of its stream carries it, and it is
// over once an event was synchronised with it. Thread-safe.
class ThreadedDevice : public Device {
 public:
  // Called on the stream's thread before a copy is made.
  using OnCopy = std::function<void(CopyKind kind, size_t bytes)>;

  explicit ThreadedDevice(int64_t memory_bytes = int64_t{1} << 30) : memory_bytes_(memory_bytes) {}

  void SetOnCopy(OnCopy hook) {
    const std::lock_guard lock(mutex_);
    on_copy_ = std::move(hook);
  }
  // Called by RecordEvent, whose status it is.
  void SetOnRecord(std::function<absl::Status()> hook) {
    const std::lock_guard lock(mutex_);
    on_record_ = std::move(hook);
  }
  int64_t used_bytes() const {
    const std::lock_guard lock(mutex_);
    return used_bytes_;
  }

  const std::string& id() const override { return id_; }
  bool host_accessible() const override { return false; }
  absl::StatusOr<DeviceInfo> Info() const override {
    return DeviceInfo{
        .name = "threaded test device", .compute_units = 4, .total_memory_bytes = memory_bytes_};
  }

  absl::StatusOr<void*> Allocate(MemoryKind, size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (static_cast<int64_t>(bytes) > memory_bytes_ - used_bytes_) {
      return absl::ResourceExhaustedError("the test device is full");
    }
    void* const block = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    used_bytes_ += static_cast<int64_t>(bytes);
    blocks_[block] = bytes;
    return block;
  }
  void Free(MemoryKind, void* block) override {
    const std::lock_guard lock(mutex_);
    used_bytes_ -= static_cast<int64_t>(blocks_.at(block));
    blocks_.erase(block);
    std::free(block);
  }

  absl::StatusOr<tessera_stream*> CreateStream() override {
    return reinterpret_cast<tessera_stream*>(new fenced::Stream);
  }
  void DestroyStream(tessera_stream* stream) override { delete &StreamOf(stream); }
  absl::Status CopyAsync(void* destination, const void* source, size_t bytes, CopyKind kind,
                         tessera_stream* stream) override {
    StreamOf(stream).Push([=, this] {
      if (const OnCopy hook = on_copy()) hook(kind, bytes);
      std::memcpy(destination, source, bytes);
    });
    return absl::OkStatus();
  }

  absl::StatusOr<tessera_event*> CreateEvent() override {
    return reinterpret_cast<tessera_event*>(new fenced::Event);
  }
  void DestroyEvent(tessera_event* event) override { delete &EventOf(event); }
  absl::Status RecordEvent(tessera_event* event, tessera_stream* stream) override {
    std::function<absl::Status()> hook;
    {
      const std::lock_guard lock(mutex_);
      hook = on_record_;
    }
    if (const absl::Status status = hook ? hook() : absl::OkStatus(); !status.ok()) return status;
    StreamOf(stream).Record(EventOf(event));
    return absl::OkStatus();
  }
  absl::Status WaitEvent(tessera_stream* stream, tessera_event* event) override {
    StreamOf(stream).WaitFor(EventOf(event));
    return absl::OkStatus();
  }
  absl::Status SynchronizeEvent(tessera_event* event) override {
    const std::string error = EventOf(event).Wait();
    return error.empty() ? absl::OkStatus() : absl::InternalError(error);
  }
  absl::StatusOr<double> ElapsedMicroseconds(tessera_event* begin, tessera_event* end) override {
    return std::chrono::duration<double, std::micro>(EventOf(end).time() - EventOf(begin).time()).count();
  }

  static fenced::Stream& StreamOf(tessera_stream* stream) {
    return *reinterpret_cast<fenced::Stream*>(stream);
  }

 private:
  static fenced::Event& EventOf(tessera_event* event) { return *reinterpret_cast<fenced::Event*>(event); }
  OnCopy on_copy() const {
    const std::lock_guard lock(mutex_);
    return on_copy_;
  }

  const std::string id_ = "threaded:0";
  const int64_t memory_bytes_;
  mutable std::mutex mutex_;
  OnCopy on_copy_;
  std::function<absl::Status()> on_record_;
  int64_t used_bytes_ = 0;
  std::map<void*, size_t> blocks_;
};

// Reference attention on a stream of a ThreadedDevice.
class ThreadedBackend : public Backend {
 public:
  // What a test may set, before there is work.
  struct Script {
    std::function<absl::Status(const AttentionProblem&)> on_enqueue;  // its status is Enqueue's
    std::function<void(const AttentionProblem&)> on_work;             // on the stream's thread; may throw
    std::function<void(const AttentionProblem&, Plan&)> on_plan;
    std::function<absl::StatusOr<ModelledTraffic>(const Plan&, const AttentionProblem&)> on_model;
  };

  ThreadedBackend(ThreadedDevice& device, const Script& script)
      : info_(AbleInfo("threaded", 1)), device_(device), script_(script) {
    info_.capabilities.input_dtypes = info_.capabilities.output_dtypes = DTypeBit(TESSERA_DTYPE_FP32);
  }

  const BackendInfo& info() const override { return info_; }
  Device& device() const override { return device_; }

  absl::StatusOr<Plan> MakePlan(const AttentionProblem& problem) const override {
    Plan plan{};
    plan.struct_size = sizeof(plan);
    plan.num_splits = plan.launches = 1;
    plan.workspace_bytes = 256;
    std::strcpy(plan.kernel, "threaded_row");
    if (script_.on_plan) script_.on_plan(problem, plan);
    return plan;
  }

  absl::Status Enqueue(const Plan& plan, const AttentionProblem& problem, void* workspace,
                       tessera_stream* stream) override {
    if (script_.on_enqueue) {
      if (const absl::Status status = script_.on_enqueue(problem); !status.ok()) return status;
    }
    const auto own = std::make_shared<OwnProblem>(problem);
    const auto bytes = static_cast<size_t>(plan.workspace_bytes);
    ThreadedDevice::StreamOf(stream).Push([this, own, workspace, bytes] {
      std::memset(workspace, 0xCD, bytes);
      if (script_.on_work) script_.on_work(own->problem);
      ReferenceAttention(own->problem);
      const auto* const first = static_cast<const char*>(workspace);
      if (std::any_of(first, first + bytes, [](char byte) { return byte != '\xCD'; })) {
        throw std::runtime_error("somebody else wrote into the workspace");
      }
    });
    return absl::OkStatus();
  }

  absl::StatusOr<ModelledTraffic> ModelTraffic(const Plan& plan,
                                               const AttentionProblem& problem) const override {
    return script_.on_model ? script_.on_model(plan, problem) : ModelledTraffic{};
  }

 private:
  // With its host arrays, which are the caller's only during Enqueue.
  struct OwnProblem {
    explicit OwnProblem(const AttentionProblem& p)
        : problem(p), sequences(p.sequences, p.sequences + p.num_sequences) {
      if (p.alibi_slopes != nullptr) slopes.assign(p.alibi_slopes, p.alibi_slopes + p.num_q_heads);
      if (p.sinks != nullptr) sinks.assign(p.sinks, p.sinks + p.num_q_heads);
      problem.sequences = sequences.data();
      problem.alibi_slopes = slopes.empty() ? nullptr : slopes.data();
      problem.sinks = sinks.empty() ? nullptr : sinks.data();
    }
    AttentionProblem problem;
    std::vector<Sequence> sequences;
    std::vector<float> slopes, sinks;
  };

  BackendInfo info_;
  ThreadedDevice& device_;
  const Script& script_;
};

}  // namespace tessera::testing
