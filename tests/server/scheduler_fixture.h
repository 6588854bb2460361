// A scheduler over a device of the test's choice: makes jobs of requests, runs them, keeps how they ended.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/scheduler.h"
#include "tests/server/reference_backend.h"
#include "tests/server/request_builder.h"

namespace tessera::testing {

// How a job ended.
struct Result {
  absl::Status status;
  std::vector<std::vector<float>> outputs;
  Ledger ledger;
};

class SchedulerFixture {
 protected:
  // Of what is in registry_.
  void StartScheduler() {
    auto scheduler = Scheduler::Create(registry_, limits_, [this](const absl::Status& health) {
      const std::lock_guard lock(mutex_);
      losses_.push_back(health);
      finished_at_loss_ = results_.size();
    });
    ASSERT_TRUE(scheduler.ok()) << scheduler.status();
    scheduler_ = *std::move(scheduler);
  }

  // A planned job for `request`, which must be good; it ends up in results_ under `key`.
  std::unique_ptr<Job> MakeJob(const std::string& key, const v1::AttendRequest& request, Backend* backend) {
    auto job = std::make_unique<Job>();
    const grpc::ByteBuffer bytes = SerializeMessage(request);
    job->wire = *WireRequest::Parse(bytes, 1 << 30);
    auto decoded = DecodeRequest(job->wire->header(), job->wire->TakePayload(), DataRequirement::kRequired);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    job->request = *std::move(decoded);
    const absl::Status valid = Validate(job->request.problem, DataRequirement::kShapesOnly);
    EXPECT_TRUE(valid.ok()) << valid;
    job->backend = backend;
    job->plan = *job->backend->MakePlan(job->request.problem);
    job->key = LaunchKeyOf(job->request.problem);
    job->size = SizeOf(job->request.problem);
    job->context.arrival = Clock::now();
    job->done = [this, key](std::unique_ptr<Job> finished, const absl::Status& status) {
      finished->ledger.time.total = Microseconds(Clock::now() - finished->context.arrival);
      Result result{.status = status, .outputs = {}, .ledger = finished->ledger};
      for (const OutputBytes& output : finished->outputs) {
        const auto* values = reinterpret_cast<const float*>(output.data());
        result.outputs.emplace_back(values, values + output.bytes() / 4);
      }
      finished.reset();  // its memory is free before the result is seen, as in the server
      const std::lock_guard lock(mutex_);
      EXPECT_TRUE(results_.emplace(key, std::move(result)).second) << key << " completed twice";
      changed_.notify_all();
    };
    return job;
  }

  Result Await(const std::string& key) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return results_.count(key) > 0; });
    return results_[key];
  }

  bool IsDone(const std::string& key) {
    const std::lock_guard lock(mutex_);
    return results_.count(key) > 0;
  }

  // What the request gives when it runs on its own, without scheduler or device.
  static std::vector<std::vector<float>> Expected(const v1::AttendRequest& request) {
    auto decoded = DecodeRequest(request, PayloadOf(request), DataRequirement::kRequired);
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    const auto inputs = BindInputs(*decoded);
    const auto buffers = BindOutputs(*decoded);
    ReferenceAttention(decoded->problem);
    std::vector<std::vector<float>> outputs;
    for (const OutputBytes& buffer : buffers) {
      const auto* values = reinterpret_cast<const float*>(buffer.data());
      outputs.emplace_back(values, values + buffer.bytes() / 4);
    }
    return outputs;
  }

  // Bit for bit.
  void ExpectCorrect(const std::string& key, const v1::AttendRequest& request) {
    const Result result = Await(key);
    EXPECT_TRUE(result.status.ok()) << key << ": " << result.status;
    EXPECT_TRUE(result.outputs == Expected(request)) << key;
  }

  Limits limits_;
  BackendControl control_;
  BackendRegistry registry_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Result> results_;
  std::vector<absl::Status> losses_;  // what on_device_lost was called with
  size_t finished_at_loss_ = 0;
  std::unique_ptr<Scheduler> scheduler_;  // last: its threads use the rest
};

}  // namespace tessera::testing
