#include "server/attend_call.h"

#include <algorithm>
#include <utility>

#include "grpcpp/server_context.h"
#include "server/status_codec.h"

namespace tessera {
namespace {

// Kept alive by gRPC (until OnDone) and by the job that will answer it, whichever is later.
class AttendCall : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<AttendCall> {
 public:
  AttendCall(Pipeline& pipeline, RequestContext request_context, Admission::Ticket ticket)
      : pipeline_(pipeline),
        cancelled_(request_context.cancelled),
        arrival_(request_context.arrival),
        deadline_(request_context.deadline),
        context_(std::move(request_context)),
        ticket_(std::move(ticket)) {}

  void Start(grpc::ByteBuffer& request, grpc::ByteBuffer* response) {
    self_ = shared_from_this();
    pipeline_.Attend(std::move(context_), request, [self = self_, response](Pipeline::Outcome&& outcome) {
      if (outcome.status.ok()) response->Swap(&outcome.reply);
      self->record_ = std::move(outcome.record);
      self->status_ = std::move(outcome.status);
      self->Finish(ToGrpcStatus(self->status_));
    });
  }

  void OnCancel() override {
    left_ = ClientLeft(arrival_, deadline_, Clock::now());
    pipeline_.scheduler().Cancel(cancelled_);
  }

  void OnDone() override {
    pipeline_.metrics().CountRequest(record_, left_.ok() ? status_ : left_);
    ticket_ = Admission::Ticket();  // the reply has left: drain need not wait for the job's memory
    const auto last = std::move(self_);
  }

  // Both reactions are short: without this gRPC hands OnDone of each call to another thread. No `override`,
  // as it is not part of gRPC's documented interface.
  bool InternalInlineable() { return true; }

 private:
  Pipeline& pipeline_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;
  const Clock::time_point arrival_, deadline_;
  RequestContext context_;
  // For the metrics: what was answered, and whether anybody read it. OnDone comes after all that writes them.
  RequestRecord record_;
  absl::Status status_, left_;
  Admission::Ticket ticket_;
  std::shared_ptr<AttendCall> self_;
};

}  // namespace

grpc::ServerUnaryReactor* StartAttendCall(Pipeline& pipeline, Admission& admission,
                                          const grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  auto ticket = admission.EnterRequest();
  if (!ticket.ok()) {
    // Counted now: nothing waits for a call without a ticket, and its end may come after the metrics'.
    pipeline.metrics().CountRequest({.method = Method::kAttend}, ticket.status());
    class Refusal : public grpc::ServerUnaryReactor {
     public:
      explicit Refusal(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
      void OnDone() override { delete this; }
    };
    return new Refusal(ticket.status());
  }
  const auto call = std::make_shared<AttendCall>(
      pipeline, pipeline.NewContext(Method::kAttend, DeadlineOf(context)), *std::move(ticket));
  // gRPC made the buffer for this call alone and hands it out as const only because most handlers just read
  // it.
  call->Start(*const_cast<grpc::ByteBuffer*>(request), response);
  return call.get();
}

Clock::time_point DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  const auto left = deadline - std::chrono::system_clock::now();
  // "No deadline" is a time so far away that adding it to our clock would overflow.
  if (left > std::chrono::hours(24 * 365)) return Clock::time_point::max();
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(left);
}

absl::Status ClientLeft(Clock::time_point arrival, Clock::time_point deadline, Clock::time_point left) {
  // The client's own clock decides, and its reset arrives before our deadline: gRPC rounds timeouts up by as
  // much as 1% on the wire, and our clock started when the request arrived.
  constexpr Clock::duration kLeast = std::chrono::milliseconds(10);
  if (deadline != Clock::time_point::max() &&
      deadline - left <= std::max(kLeast, (deadline - arrival) / 50)) {
    return absl::DeadlineExceededError("the deadline passed before the client had its reply");
  }
  return absl::CancelledError("the client left before it had its reply");
}

}  // namespace tessera
