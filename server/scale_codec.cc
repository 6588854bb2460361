#include "server/scale_codec.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"

namespace tessera {
namespace {

absl::Status DecodeOne(const char* field, const google::protobuf::RepeatedField<float>& wire, int64_t heads,
                       DecodedRequest& request, std::vector<float>& values, tessera_scales& scales) {
  if (wire.empty()) return absl::OkStatus();
  const int64_t num_sequences = request.problem.num_sequences;
  const int64_t count = wire.size();
  const bool of_sequences = count == heads * num_sequences;
  if (count != 1 && count != heads && !of_sequences) {
    return InvalidArgument(
        "SCALE_COUNT", field,
        absl::StrCat("none, 1, ", heads, " (one for each head) or ", heads * num_sequences,
                     " entries (one for each head of each of ", num_sequences, " sequences)"),
        absl::StrCat(count, " entries"));
  }
  values.assign(wire.begin(), wire.end());
  scales = {.data = values.data(),
            .sequence_stride = of_sequences ? heads : 0,
            .head_stride = count >= heads ? 1 : 0};
  request.input_bytes += count * static_cast<int64_t>(sizeof(float));
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodeScales(const v1::AttendRequest& header, DecodedRequest& request) {
  AttentionProblem& p = request.problem;
  TESSERA_RETURN_IF_ERROR(
      DecodeOne("q_scales", header.q_scales(), p.num_q_heads, request, request.q_scales, p.q_scales));
  TESSERA_RETURN_IF_ERROR(
      DecodeOne("k_scales", header.k_scales(), p.num_kv_heads, request, request.k_scales, p.k_scales));
  return DecodeOne("v_scales", header.v_scales(), p.num_kv_heads, request, request.v_scales, p.v_scales);
}

}  // namespace tessera
