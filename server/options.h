// How one server is set up. Flags (flags.h) and tests fill it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

// What a request may ask for; GetServerInfo reports these numbers.
struct Limits {
  // A request's size on the wire, and a reply's. A (1, 16, 16384, 128) fp32 problem sends 384 MiB.
  int64_t max_message_bytes = int64_t{512} << 20;
  // q tokens plus kv tokens of one launch. 4 Mi tokens of 8 kv heads x 128 in bf16 are 16 GiB of K and V,
  // more than a message holds: the limit is for shapes whose tokens cost few bytes.
  int64_t max_batch_tokens = int64_t{4} << 20;
  // Device scratch of one launch: 16 heads' worth of 8192 x 8192 scores, on a backend that materialises them.
  int64_t max_workspace_bytes = int64_t{4} << 30;
  // Requests between their arrival and the end of their reply, those on streams included.
  int max_concurrent_requests = 256;
  // Requests of one stream between arrival and reply; past it the stream is not read, so that HTTP/2 flow
  // control holds the client back.
  int max_stream_requests = 16;
};

// Shadow verification: a share of the requests is computed once more, by standard attention, and compared.
struct ShadowOptions {
  double rate = 0;  // that share, 0..1; 0: none
  // What may wait for it: payloads and replies together, the one being replayed included. Its workspace comes
  // on top, and is no more than this either.
  int64_t max_bytes = int64_t{256} << 20;
  int max_requests = 16;
};

struct ServerOptions {
  // "HOST:PORT" (port 0: any free one; IPv6 in brackets) or "unix:PATH".
  std::vector<std::string> listen = {"127.0.0.1:0"};
  // "HOST:PORT" that serves metrics; empty: none.
  std::string metrics_listen;
  // Allows addresses that other machines can reach, without encryption or authentication.
  bool insecure = false;
  Limits limits;
  ShadowOptions shadow;
  // How long Drain waits for requests in flight before it gives them up.
  std::chrono::milliseconds drain_timeout = std::chrono::seconds(30);
  // The backend of a request that names none.
  std::string default_backend = "auto";
};

}  // namespace tessera
