#include "server/attention_service.h"

#include <utility>

#include "server/attend_call.h"
#include "server/reply_codec.h"
#include "server/status_codec.h"

namespace tessera {

AttentionService::AttentionService(const ServerOptions& options, const BackendRegistry& registry,
                                   Admission& admission, Scheduler& scheduler, Metrics& metrics,
                                   ShadowVerifier* shadow)
    : options_(options),
      registry_(registry),
      admission_(admission),
      metrics_(metrics),
      pipeline_(options, registry, admission, scheduler, metrics, shadow) {}

void AttentionService::StartDraining() {
  std::vector<std::weak_ptr<tessera::AttendStream>> streams;
  {
    std::lock_guard lock(mutex_);
    streams = streams_;
  }
  for (const auto& weak : streams) {
    if (const auto stream = weak.lock()) stream->StartDraining();
  }
}

grpc::ServerUnaryReactor* AttentionService::Attend(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return StartAttendCall(pipeline_, admission_, *context, request, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttentionService::AttendStream(
    grpc::CallbackServerContext* context) {
  std::shared_ptr<tessera::AttendStream> stream;
  {
    // Entered and listed as one step: whoever comes in before the door closes is told of the drain.
    std::lock_guard lock(mutex_);
    auto ticket = admission_.EnterStream();
    if (!ticket.ok()) {
      metrics_.CountStream(ticket.status().code());
      return RefuseStream(ticket.status());
    }
    stream = std::make_shared<tessera::AttendStream>(
        pipeline_, admission_, *std::move(ticket), DeadlineOf(*context), options_.limits.max_stream_requests);
    std::erase_if(streams_, [](const auto& weak) { return weak.expired(); });
    streams_.push_back(stream);
  }
  stream->Start();
  return stream.get();
}

grpc::ServerUnaryReactor* AttentionService::Explain(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto ticket = admission_.EnterRequest();
  absl::Status status = ticket.status();
  if (!ticket.ok()) {
    metrics_.CountRequest({.method = Method::kExplain}, status);
  } else {
    auto reply = pipeline_.Explain(pipeline_.NewContext(Method::kExplain, DeadlineOf(*context)), *request);
    status = reply.status();
    if (reply.ok()) response->Swap(&*reply);
  }
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

grpc::ServerUnaryReactor* AttentionService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest* /*request*/,
                                                          v1::GetServerInfoResponse* response) {
  *response = EncodeServerInfo(registry_, options_.limits, admission_.door_closed());
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  metrics_.CountRequest({.method = Method::kGetServerInfo}, absl::OkStatus());
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace tessera
