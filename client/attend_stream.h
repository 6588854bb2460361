// AttendStream: requests go out and replies come back independently, matched by id.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/attend_call.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "tessera/v1/attention.grpc.pb.h"

namespace tessera::client {

// A reply to one request of the stream: its result, or the error of that request alone.
struct StreamReply {
  std::string id;
  absl::StatusOr<AttendResult> result;
};

// One thread may send while another receives; neither side is itself thread-safe. A caller that only sends
// will block once the flow-control windows of both sides are full: keep receiving. Destroying the stream
// cancels what is still in flight.
class AttendStream {
 public:
  explicit AttendStream(const std::shared_ptr<grpc::Channel>& channel);
  AttendStream(const AttendStream&) = delete;
  AttendStream& operator=(const AttendStream&) = delete;
  ~AttendStream();

  // `call.id` should be unique among those in flight. UNAVAILABLE when the stream is broken: Finish says why.
  absl::Status Send(const AttendCall& call);
  absl::Status Send(const v1::AttendRequest& request);

  // No more requests will follow. Replies may still be received.
  void CloseSending();

  // Waits for the next reply, in the server's order. OUT_OF_RANGE when there are no more: then call Finish.
  absl::StatusOr<StreamReply> Receive();

  // Closes sending, discards replies that were not received, and returns the status of the stream as a whole.
  absl::Status Finish();

 private:
  std::unique_ptr<v1::AttentionService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AttendRequest, v1::AttendResponse>> stream_;
  bool sending_closed_ = false;
  bool finished_ = false;
};

}  // namespace tessera::client
