// Who may come in, and how large: the server's limits, and the door that drain closes.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/backend.h"
#include "server/options.h"

namespace tessera {

// Thread-safe. Outlives its tickets.
class Admission {
 public:
  // Held from the arrival of a request (or the opening of a stream) to the end of its reply. Move-only.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept {
      std::swap(admission_, other.admission_);
      std::swap(is_request_, other.is_request_);
      return *this;
    }
    ~Ticket() {
      if (admission_ != nullptr) admission_->Leave(is_request_);
    }

   private:
    friend class Admission;
    Ticket(Admission* admission, bool is_request) : admission_(admission), is_request_(is_request) {}
    Admission* admission_ = nullptr;
    bool is_request_ = false;
  };

  explicit Admission(const Limits& limits) : limits_(limits) {}

  // A request: RESOURCE_EXHAUSTED, reason TOO_MANY_REQUESTS, when max_concurrent_requests are in;
  // UNAVAILABLE, reason DRAINING, when the door is closed. Both with a retry hint.
  absl::StatusOr<Ticket> EnterRequest();
  // A stream, which may idle: not counted as a request, but drain waits for it.
  absl::StatusOr<Ticket> EnterStream();

  // RESOURCE_EXHAUSTED, reason MESSAGE_TOO_LARGE, for tensors that no request can carry: what Explain, which
  // sees none, has instead of a message's size.
  absl::Status CheckInput(int64_t input_bytes) const;
  // RESOURCE_EXHAUSTED: BATCH_TOKENS_LIMIT, or OUTPUT_LIMIT for outputs that no reply can carry.
  absl::Status CheckSize(const ProblemSize& size, int64_t output_bytes) const;
  // RESOURCE_EXHAUSTED, reason WORKSPACE_LIMIT, naming the backend, before anything is allocated.
  absl::Status CheckWorkspace(const Backend& backend, const Plan& plan) const;

  // From now on everybody is turned away. Idempotent.
  void CloseDoor();
  bool door_closed() const;
  void WaitUntilDoorClosed() const;
  // Waits until nobody is in: true; or until `deadline` passes or GiveUp() is called: false.
  bool WaitUntilEmpty(std::chrono::steady_clock::time_point deadline) const;
  // Waits until nobody is in, come what may.
  void WaitForEverybody() const;
  // How many are in.
  int requests() const;
  int streams() const;
  // Makes WaitUntilEmpty return. Idempotent.
  void GiveUp();

 private:
  absl::StatusOr<Ticket> Enter(bool is_request);
  void Leave(bool is_request);
  bool is_empty() const { return requests_ == 0 && streams_ == 0; }  // with mutex_ held

  const Limits limits_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int requests_ = 0;
  int streams_ = 0;
  bool closed_ = false;
  bool given_up_ = false;
};

// UNAVAILABLE, reason DRAINING: what a server that shuts down says.
absl::Status DrainingError();

}  // namespace tessera
