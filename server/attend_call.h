// One unary Attend call.
#pragma once

#include <memory>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/admission.h"
#include "server/pipeline.h"

namespace tessera {

// Starts the call; gRPC drives the reactor from there and it deletes itself. `request` and `response` are
// gRPC's, alive until the reactor is done.
grpc::ServerUnaryReactor* StartAttendCall(Pipeline& pipeline, Admission& admission,
                                          const grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer* request, grpc::ByteBuffer* response);

// The deadline that the client set, on our clock.
Clock::time_point DeadlineOf(const grpc::CallbackServerContext& context);

// How the call of a client that was gone at `left` ended for that client: DEADLINE_EXCEEDED around
// `deadline`, else CANCELLED. The request arrived at `arrival`.
absl::Status ClientLeft(Clock::time_point arrival, Clock::time_point deadline, Clock::time_point left);

}  // namespace tessera
