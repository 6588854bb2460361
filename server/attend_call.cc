#include "server/attend_call.h"

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
        context_(std::move(request_context)),
        ticket_(std::move(ticket)) {}

  void Start(grpc::ByteBuffer& request, grpc::ByteBuffer* response) {
    self_ = shared_from_this();
    pipeline_.Attend(std::move(context_), request, [self = self_, response](Pipeline::Outcome outcome) {
      if (outcome.status.ok()) response->Swap(&outcome.reply);
      self->Finish(ToGrpcStatus(outcome.status));
    });
  }

  void OnCancel() override { pipeline_.scheduler().Cancel(cancelled_); }

  void OnDone() override {
    ticket_ = Admission::Ticket();  // the reply has left: drain need not wait for the job's memory
    const auto last = std::move(self_);
  }

 private:
  Pipeline& pipeline_;
  const std::shared_ptr<std::atomic<bool>> cancelled_;
  RequestContext context_;
  Admission::Ticket ticket_;
  std::shared_ptr<AttendCall> self_;
};

}  // namespace

grpc::ServerUnaryReactor* StartAttendCall(Pipeline& pipeline, Admission& admission,
                                          const grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  auto ticket = admission.EnterRequest();
  if (!ticket.ok()) {
    class Refusal : public grpc::ServerUnaryReactor {
     public:
      explicit Refusal(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
      void OnDone() override { delete this; }
    };
    return new Refusal(ticket.status());
  }
  const auto call = std::make_shared<AttendCall>(pipeline, pipeline.NewContext("Attend", DeadlineOf(context)),
                                                 *std::move(ticket));
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

}  // namespace tessera
