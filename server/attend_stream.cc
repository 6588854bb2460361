#include "server/attend_stream.h"

#include <utility>

#include "server/attend_call.h"
#include "server/reply_codec.h"
#include "server/status_codec.h"

namespace tessera {

AttendStream::AttendStream(Pipeline& pipeline, Admission& admission, Admission::Ticket ticket,
                           Clock::time_point deadline, int max_requests)
    : pipeline_(pipeline),
      admission_(admission),
      deadline_(deadline),
      max_requests_(max_requests),
      cancelled_(std::make_shared<std::atomic<bool>>(false)),
      ticket_(std::move(ticket)) {}

void AttendStream::Start() {
  {
    std::lock_guard lock(mutex_);
    self_ = shared_from_this();
  }
  Advance();
}

void AttendStream::StartDraining() {
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
  }
  Advance();
}

void AttendStream::OnReadDone(bool ok) {
  grpc::ByteBuffer message;
  bool take = false;
  {
    std::lock_guard lock(mutex_);
    reading_ = false;
    if (!ok) read_closed_ = true;
    take = ok && !broken_ && !finished_;
    if (take) ++outstanding_;
    if (ok && !take) Count({.method = Method::kAttendStream}, DrainingError());
    message.Swap(&incoming_);
  }
  if (take) {
    auto ticket = admission_.EnterRequest();
    RequestContext context = pipeline_.NewContext(Method::kAttendStream, deadline_);
    context.cancelled = cancelled_;
    // std::function wants copyable captures.
    auto shared_ticket = std::make_shared<Admission::Ticket>();
    if (ticket.ok()) *shared_ticket = *std::move(ticket);
    const auto done = [self = shared_from_this(), shared_ticket](Pipeline::Outcome&& outcome) {
      self->OnOutcome(std::move(outcome), std::move(*shared_ticket));
    };
    if (ticket.ok()) {
      pipeline_.Attend(std::move(context), message, done);
    } else {
      pipeline_.Refuse(std::move(context), message, ticket.status(), done);
    }
  }
  Advance();
}

void AttendStream::OnOutcome(Pipeline::Outcome&& outcome, Admission::Ticket ticket) {
  if (!outcome.status.ok()) outcome.reply = SerializeMessage(EncodeFailure(outcome.id, outcome.status));
  {
    std::lock_guard lock(mutex_);
    if (broken_) {
      --outstanding_;
      Count(outcome.record, outcome.status);
    } else {
      replies_.push_back({std::move(outcome.reply), std::move(outcome.record), std::move(outcome.status),
                          std::move(ticket)});
    }
  }
  Advance();
}

void AttendStream::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) Break();
    Count(replies_.front().record, replies_.front().status);
    replies_.pop_front();
    --outstanding_;
  }
  Advance();
}

void AttendStream::OnCancel() {
  {
    std::lock_guard lock(mutex_);
    Break();
  }
  pipeline_.scheduler().Cancel(cancelled_);
  Advance();
}

void AttendStream::OnDone() {
  std::shared_ptr<AttendStream> last;
  std::lock_guard lock(mutex_);
  ticket_ = Admission::Ticket();
  last = std::move(self_);
}

void AttendStream::Break() {
  if (broken_) return;
  broken_ = true;
  left_ = ClientLeft(opened_, deadline_, Clock::now());
}

void AttendStream::Count(const RequestRecord& record, const absl::Status& status) {
  pipeline_.metrics().CountRequest(record, broken_ ? left_ : status);
}

bool AttendStream::ShouldRead() {
  if (reading_ || read_closed_ || draining_ || broken_ || finished_ || outstanding_ >= max_requests_)
    return false;
  return reading_ = true;
}

bool AttendStream::ShouldWrite() {
  if (broken_ && !writing_) {
    for (const Reply& reply : replies_) Count(reply.record, reply.status);
    outstanding_ -= static_cast<int>(replies_.size());
    replies_.clear();
  }
  if (writing_ || replies_.empty() || finished_) return false;
  return writing_ = true;
}

bool AttendStream::ShouldFinish() {
  if (finished_ || outstanding_ > 0 || !(read_closed_ || draining_ || broken_)) return false;
  return finished_ = true;
}

void AttendStream::Advance() {
  // Finish may end the stream on another thread at once; this reference keeps the object until we are out of
  // it.
  const auto self = shared_from_this();
  grpc::Status status;
  {
    std::lock_guard lock(mutex_);
    // Started under the lock, so that no other thread can finish the stream in between. gRPC never runs a
    // reaction inside these calls.
    if (ShouldRead()) StartRead(&incoming_);
    if (ShouldWrite())
      StartWrite(&replies_.front().bytes);  // a deque keeps it in place while others are appended
    if (!ShouldFinish()) return;
    status = FinalStatus();
    pipeline_.metrics().CountStream(broken_ ? left_.code()
                                            : static_cast<absl::StatusCode>(status.error_code()));
  }
  Finish(std::move(status));
}

grpc::Status AttendStream::FinalStatus() const {
  if (broken_) return grpc::Status(grpc::StatusCode::CANCELLED, "the stream was cancelled");
  if (read_closed_) return grpc::Status::OK;
  return ToGrpcStatus(DrainingError());
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* RefuseStream(const absl::Status& status) {
  class Refusal : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
   public:
    explicit Refusal(const absl::Status& refusal) { Finish(ToGrpcStatus(refusal)); }
    void OnDone() override { delete this; }
  };
  return new Refusal(status);
}

}  // namespace tessera
