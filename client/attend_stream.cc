#include "client/attend_stream.h"

#include <utility>

#include "client/error.h"
#include "client/status_macros.h"

namespace tessera::client {

AttendStream::AttendStream(const std::shared_ptr<grpc::Channel>& channel)
    : stub_(v1::AttentionService::NewStub(channel)), stream_(stub_->AttendStream(&context_)) {}

AttendStream::~AttendStream() {
  if (finished_) return;
  context_.TryCancel();
  (void)Finish();
}

absl::Status AttendStream::Send(const AttendCall& call) {
  TESSERA_TRY_ASSIGN(const v1::AttendRequest request, EncodeRequest(call));
  return Send(request);
}

absl::Status AttendStream::Send(const v1::AttendRequest& request) {
  if (sending_closed_) return absl::FailedPreconditionError("Send after CloseSending");
  if (!stream_->Write(request)) return absl::UnavailableError("the stream is closed; Finish() says why");
  return absl::OkStatus();
}

void AttendStream::CloseSending() {
  if (!std::exchange(sending_closed_, true)) stream_->WritesDone();
}

absl::StatusOr<StreamReply> AttendStream::Receive() {
  v1::AttendResponse response;
  if (finished_ || !stream_->Read(&response)) return absl::OutOfRangeError("the stream has no more replies");
  std::string id = response.id();
  if (absl::Status status = FromRpcStatus(response.status()); !status.ok()) {
    return StreamReply{std::move(id), std::move(status)};
  }
  return StreamReply{std::move(id), DecodeResponse(std::move(response))};
}

absl::Status AttendStream::Finish() {
  if (finished_) return absl::FailedPreconditionError("Finish was called before");
  CloseSending();
  v1::AttendResponse discarded;
  while (stream_->Read(&discarded)) {
  }
  finished_ = true;
  return FromGrpcStatus(stream_->Finish());
}

}  // namespace tessera::client
