// One AttendStream call: many requests in flight, answered in the order in which they finish.
#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/admission.h"
#include "server/pipeline.h"

namespace tessera {

// The reactor of one stream. Reads while fewer than `max_requests` are between arrival and the end of their
// reply; ends with OK after the client's half-close, with UNAVAILABLE after StartDraining, with CANCELLED
// after a cancel, and in each case only when every request that it read is done with. Kept alive by gRPC and
// by its jobs.
class AttendStream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                     public std::enable_shared_from_this<AttendStream> {
 public:
  AttendStream(Pipeline& pipeline, Admission& admission, Admission::Ticket ticket, Clock::time_point deadline,
               int max_requests);

  // Begins to read. Call once.
  void Start();
  // Reads no more, finishes what it has. Thread-safe, idempotent.
  void StartDraining();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Reply {
    grpc::ByteBuffer bytes;
    RequestRecord record;
    absl::Status status;
    Admission::Ticket ticket;
  };

  void OnOutcome(Pipeline::Outcome&& outcome, Admission::Ticket ticket);
  // With mutex_ held: nobody listens any more.
  void Break();
  // With mutex_ held: counts a request that has ended, by `status` or, when the client has left, by that.
  void Count(const RequestRecord& record, const absl::Status& status);
  // Decide, with mutex_ held, whether to begin the step, and enter that it has begun.
  bool ShouldRead();
  bool ShouldWrite();
  bool ShouldFinish();
  // Does what the state calls for: at most one read, one write, and the finish.
  void Advance();
  grpc::Status FinalStatus() const;

  Pipeline& pipeline_;
  Admission& admission_;
  const Clock::time_point opened_ = Clock::now();
  const Clock::time_point deadline_;
  const int max_requests_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;

  std::mutex mutex_;
  Admission::Ticket ticket_;
  std::shared_ptr<AttendStream> self_;  // gRPC's reference
  std::deque<Reply> replies_;           // the front one is being written when writing_
  int outstanding_ = 0;                 // requests read whose replies have not left
  bool reading_ = false;
  bool writing_ = false;
  bool read_closed_ = false;  // the client said all it will say
  bool draining_ = false;
  bool broken_ = false;  // cancelled, or a write failed: nobody listens
  absl::Status left_;    // then, how the stream ended for the client
  bool finished_ = false;
  grpc::ByteBuffer incoming_;
};

// A stream that ends at once with `status`.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* RefuseStream(const absl::Status& status);

}  // namespace tessera
