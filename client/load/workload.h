// What a load test sends: the seam between the generator, which knows times and sockets, and the kinds of
// requests.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/accuracy.h"
#include "client/client.h"
#include "grpcpp/support/byte_buffer.h"

namespace tessera::load {

// Serialized once and sent many times: sending shares the buffer's slices.
struct PreparedRequest {
  grpc::ByteBuffer message;
  int64_t tokens = 0;  // query tokens, what tokens/s counts
};

// Thread-safe once made.
class Workload {
 public:
  virtual ~Workload() = default;

  virtual const std::string& method() const = 0;  // "/package.Service/Method"
  virtual std::string Describe() const = 0;       // for people, one line

  // How many requests differ, and which of them is sent as number `n` of a phase.
  virtual size_t distinct() const = 0;
  virtual size_t IndexOf(uint64_t n) const = 0;
  virtual const PreparedRequest& request(size_t index) const = 0;

  // Asks the oracle for the true results of all distinct requests; before the load, which it would disturb.
  virtual absl::Status PrepareReferences(const client::Client& server, const std::string& oracle) = 0;
  // "" when `reply` is what request `index` should get, else what is wrong. After PrepareReferences.
  virtual std::string Judge(size_t index, const grpc::ByteBuffer& reply, client::Accuracy& worst) const = 0;
};

}  // namespace tessera::load
