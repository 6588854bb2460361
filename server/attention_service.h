// tessera.v1.AttentionService on gRPC's callback API.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "backend/core/registry.h"
#include "server/admission.h"
#include "server/attend_stream.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/pipeline.h"
#include "tessera/v1/attention.grpc.pb.h"

namespace tessera {

// The methods that carry tensors are registered raw, so that the server owns size check and parsing: a
// message that is too large or malformed gets a precise error.
using RawAttentionService = v1::AttentionService::WithRawCallbackMethod_Attend<
    v1::AttentionService::WithRawCallbackMethod_AttendStream<
        v1::AttentionService::WithRawCallbackMethod_Explain<
            v1::AttentionService::WithCallbackMethod_GetServerInfo<v1::AttentionService::Service>>>>;

class AttentionService final : public RawAttentionService {
 public:
  // All arguments outlive the service; `shadow` may be null.
  AttentionService(const ServerOptions& options, const BackendRegistry& registry, Admission& admission,
                   Scheduler& scheduler, Metrics& metrics, ShadowVerifier* shadow);

  // Makes open streams finish what they have and end. Call after Admission::CloseDoor.
  void StartDraining();

  grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttendStream(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Explain(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  const ServerOptions& options_;
  const BackendRegistry& registry_;
  Admission& admission_;
  Metrics& metrics_;
  Pipeline pipeline_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<tessera::AttendStream>> streams_;
};

}  // namespace tessera
