// What gRPC itself gives: an echo of raw byte buffers, which no server of tensors over the same library can
// beat. The bar for Attend.
//
//   taskset -c 0 grpc_echo --mode=server --address=unix:/tmp/echo.sock --reply_bytes=5592405 &
//   taskset -c 1 grpc_echo --mode=client --address=unix:/tmp/echo.sock --request_bytes=16777216
//   taskset -c 1 grpc_echo --mode=attend --address=unix:/tmp/tessera.sock --request_bytes=16777216
//
// server: answers every unary call with the first --reply_bytes bytes of its request, repeated where it has
// fewer; runs until SIGTERM. client: calls in a closed loop, --concurrency in flight over --channels
// connections, and prints one line of JSON. attend: the same, of Attend requests for --backend, whose q, k
// and v take about --request_bytes, and whose reply is a third of that. Sizes of 0 are the empty echo.
// --channel_args=NAME=INTEGER,... sets gRPC's own settings on either side.

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "tessera/v1/attention.pb.h"

ABSL_FLAG(std::string, mode, "client", "server, client or attend");
ABSL_FLAG(std::string, address, "127.0.0.1:50051", "HOST:PORT or unix:PATH");
ABSL_FLAG(int64_t, request_bytes, 0, "client: bytes of a request");
ABSL_FLAG(int64_t, reply_bytes, 0, "server: bytes of a reply");
ABSL_FLAG(double, seconds, 3, "client: how long to measure");
ABSL_FLAG(double, warmup_seconds, 0.5, "client: before that");
ABSL_FLAG(int, concurrency, 1, "client: calls in flight");
ABSL_FLAG(int, channels, 1, "client: connections");
ABSL_FLAG(std::string, backend, "null", "attend: of the requests");
ABSL_FLAG(std::vector<std::string>, channel_args, {}, "NAME=INTEGER, settings of gRPC");

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "grpc_echo: %s\n", message.c_str());
  std::exit(2);
}

std::vector<std::pair<std::string, int>> ChannelArgs() {
  std::vector<std::pair<std::string, int>> args;
  for (const std::string& text : absl::GetFlag(FLAGS_channel_args)) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits('=', 1));
    int value = 0;
    if (!absl::SimpleAtoi(parts.second, &value)) Fail("--channel_args wants NAME=INTEGER, got " + text);
    args.emplace_back(parts.first, value);
  }
  return args;
}

// ---- Server ----

// The first `bytes` of `request`, again and again; shares its memory.
grpc::ByteBuffer ReplyOf(const grpc::ByteBuffer& request, size_t bytes) {
  std::vector<grpc::Slice> slices, reply;
  if (!request.Dump(&slices).ok() || request.Length() == 0) slices.assign(1, grpc::Slice("\0", 1));
  for (size_t i = 0; bytes > 0; i = (i + 1) % slices.size()) {
    const size_t length = std::min(bytes, slices[i].size());
    if (length > 0) reply.push_back(slices[i].sub(0, length));
    bytes -= length;
  }
  if (reply.empty()) reply.emplace_back();
  return grpc::ByteBuffer(reply.data(), reply.size());
}

class EchoCall : public grpc::ServerGenericBidiReactor {
 public:
  explicit EchoCall(size_t reply_bytes) : reply_bytes_(reply_bytes) { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no request"));
    reply_ = ReplyOf(request_, reply_bytes_);
    request_.Clear();
    StartWriteAndFinish(&reply_, {}, grpc::Status::OK);
  }
  void OnDone() override { delete this; }

 private:
  const size_t reply_bytes_;
  grpc::ByteBuffer request_, reply_;
};

class EchoService : public grpc::CallbackGenericService {
 public:
  explicit EchoService(size_t reply_bytes) : reply_bytes_(reply_bytes) {}
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new EchoCall(reply_bytes_);
  }

 private:
  const size_t reply_bytes_;
};

int Serve() {
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // before gRPC's threads inherit it

  EchoService service(static_cast<size_t>(absl::GetFlag(FLAGS_reply_bytes)));
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(-1);
  for (const auto& [name, value] : ChannelArgs()) builder.AddChannelArgument(name, value);
  int port = 0;
  builder.AddListeningPort(absl::GetFlag(FLAGS_address), grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) Fail("cannot listen on " + absl::GetFlag(FLAGS_address));
  std::printf("{\"port\": %d}\n", port);
  std::fflush(stdout);
  int signal = 0;
  sigwait(&stop, &signal);
  server->Shutdown();
  return 0;
}

// ---- Client ----

struct Request {
  std::string method;
  grpc::ByteBuffer bytes;
};

Request EchoRequest() {
  const grpc::Slice slice(std::string(static_cast<size_t>(absl::GetFlag(FLAGS_request_bytes)), 'x'));
  return {"/tessera.benchmark.Echo/Echo", grpc::ByteBuffer(&slice, 1)};
}

// bf16, (tokens, 8, 64) each; what is too small for that, (1, 1, some).
Request AttendRequest() {
  constexpr int64_t kElementBytes = 2;
  const int64_t elements = absl::GetFlag(FLAGS_request_bytes) / (3 * kElementBytes);
  const bool is_small = elements < 8 * 64;
  const int64_t heads = is_small ? 1 : 8, dim = is_small ? std::max<int64_t>(elements, 1) : 64;
  const int64_t tokens = is_small ? 1 : elements / (heads * dim);
  tessera::v1::AttendRequest request;
  request.set_backend(absl::GetFlag(FLAGS_backend));
  uint32_t index = 0;
  for (tessera::v1::Tensor* tensor : {request.mutable_q(), request.mutable_k(), request.mutable_v()}) {
    tensor->set_dtype(tessera::v1::DATA_TYPE_BF16);
    for (const int64_t extent : {tokens, heads, dim}) tensor->add_shape(extent);
    tensor->set_raw_index(index++);
    request.add_raw()->resize(static_cast<size_t>(tokens * heads * dim * kElementBytes), '\x3c');
  }
  const grpc::Slice slice(request.SerializeAsString());
  return {"/tessera.v1.AttentionService/Attend", grpc::ByteBuffer(&slice, 1)};
}

// One call after the other until `end`; keeps the latencies of those that began after `begin`.
class Loop {
 public:
  Loop(std::shared_ptr<grpc::Channel> channel, const Request& request, Clock::time_point begin,
       Clock::time_point end)
      : stub_(std::move(channel)), request_(request), begin_(begin), end_(end) {
    Next();
  }

  // Microseconds, once the loop is over.
  const std::vector<double>& Await() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return over_; });
    return latencies_;
  }
  int64_t reply_bytes() const { return reply_bytes_; }

 private:
  void Next() {
    context_ = std::make_unique<grpc::ClientContext>();
    reply_.Clear();
    sent_ = Clock::now();
    stub_.UnaryCall(context_.get(), request_.method, grpc::StubOptions(), &request_.bytes, &reply_,
                    [this](grpc::Status status) { OnReply(status); });
  }

  void OnReply(const grpc::Status& status) {
    if (!status.ok()) Fail(status.error_message());
    const Clock::time_point now = Clock::now();
    reply_bytes_ = static_cast<int64_t>(reply_.Length());
    if (sent_ >= begin_) latencies_.push_back(std::chrono::duration<double, std::micro>(now - sent_).count());
    if (now < end_) return Next();
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }

  grpc::GenericStub stub_;
  const Request& request_;
  const Clock::time_point begin_, end_;
  std::unique_ptr<grpc::ClientContext> context_;
  grpc::ByteBuffer reply_;
  Clock::time_point sent_;
  std::vector<double> latencies_;
  int64_t reply_bytes_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
};

std::vector<std::shared_ptr<grpc::Channel>> Connect() {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < absl::GetFlag(FLAGS_channels); ++i) {
    grpc::ChannelArguments args;
    args.SetMaxReceiveMessageSize(-1);
    args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // connections of their own
    for (const auto& [name, value] : ChannelArgs()) args.SetInt(name, value);
    channels.push_back(
        grpc::CreateCustomChannel(absl::GetFlag(FLAGS_address), grpc::InsecureChannelCredentials(), args));
    if (!channels.back()->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
      Fail("no server answers at " + absl::GetFlag(FLAGS_address));
    }
  }
  return channels;
}

double Quantile(const std::vector<double>& sorted, double q) {
  return sorted[std::min(static_cast<size_t>(q * static_cast<double>(sorted.size())), sorted.size() - 1)];
}

int Measure(const Request& request) {
  const auto channels = Connect();
  const auto seconds = [](double value) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
  };
  const Clock::time_point begin = Clock::now() + seconds(absl::GetFlag(FLAGS_warmup_seconds));
  const Clock::time_point end = begin + seconds(absl::GetFlag(FLAGS_seconds));
  std::vector<std::unique_ptr<Loop>> loops;
  for (int i = 0; i < absl::GetFlag(FLAGS_concurrency); ++i) {
    loops.push_back(
        std::make_unique<Loop>(channels[static_cast<size_t>(i) % channels.size()], request, begin, end));
  }
  std::vector<double> all;
  for (const auto& loop : loops) {
    const std::vector<double>& latencies = loop->Await();
    all.insert(all.end(), latencies.begin(), latencies.end());
  }
  const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
  if (all.empty()) Fail("no call ended within --seconds");
  std::sort(all.begin(), all.end());
  const double rate = static_cast<double>(all.size()) / elapsed;
  const auto request_bytes = static_cast<int64_t>(request.bytes.Length());
  std::printf(
      "{\"request_bytes\": %lld, \"reply_bytes\": %lld, \"calls\": %zu, \"per_s\": %.2f, "
      "\"gb_per_s\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
      static_cast<long long>(request_bytes), static_cast<long long>(loops.front()->reply_bytes()), all.size(),
      rate, rate * static_cast<double>(request_bytes + loops.front()->reply_bytes()) * 1e-9,
      Quantile(all, 0.5), Quantile(all, 0.99));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("An echo of raw gRPC byte buffers; see the top of grpc_echo.cc.");
  absl::ParseCommandLine(argc, argv);
  const std::string mode = absl::GetFlag(FLAGS_mode);
  if (mode == "server") return Serve();
  if (mode == "client") return Measure(EchoRequest());
  if (mode == "attend") return Measure(AttendRequest());
  Fail("--mode is server, client or attend, got " + mode);
}
