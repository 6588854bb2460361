// absl::Status with an ErrorDetail (backend/core/error.h) -> gRPC status with google.rpc.Status details.
#pragma once

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace tessera {

// The details hold ErrorInfo {reason, domain "tessera", metadata}, and RetryInfo where the error has a retry
// hint. Texts are cut so that the status fits into the 8 KiB of trailers that every gRPC client accepts.
google::rpc::Status ToRpcStatus(const absl::Status& status);
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tessera
