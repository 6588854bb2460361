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

}  // namespace tessera
