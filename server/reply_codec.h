// Results -> AttendResponse, ExplainResponse, GetServerInfoResponse.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backend/core/ledger.h"
#include "backend/core/registry.h"
#include "server/admission.h"
#include "server/options.h"
#include "server/request_codec.h"
#include "tessera/v1/attention.pb.h"

namespace tessera {

// Fills everything of a reply but its payload: outputs[i] has raw_index i.
void EncodeReply(const std::string& id, const std::vector<OutputSpec>& outputs, const Ledger& ledger,
                 v1::AttendResponse& response);

// A reply on a stream to a request that failed.
v1::AttendResponse EncodeFailure(const std::string& id, const absl::Status& status);

// What Attend would do with `request` (decoded with kShapesOnly, valid), were it to run on `backend`,
// and which backends would refuse it: for a feature they lack or a limit of `admission`.
absl::StatusOr<v1::ExplainResponse> EncodeExplain(const DecodedRequest& request, Backend& backend,
                                                  const BackendRegistry& registry,
                                                  const Admission& admission);

v1::GetServerInfoResponse EncodeServerInfo(const BackendRegistry& registry, const Limits& limits,
                                           bool draining);

}  // namespace tessera
