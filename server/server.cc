#include "server/server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/admission.h"
#include "server/attention_service.h"
#include "server/listen_address.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/metrics_endpoint.h"
#include "server/scheduler.h"
#include "server/shadow_verifier.h"

namespace tessera {
namespace {

constexpr char kServiceName[] = "tessera.v1.AttentionService";

// How long a drained server still turns calls away before it closes its connections. gRPC hands a unary call
// over once its whole message has arrived, and on shutdown cancels those that still upload: CANCELLED would
// look like the client's own doing, while UNAVAILABLE is tried again elsewhere.
constexpr std::chrono::milliseconds kTurnAway(200);

// How long the calls that drain does not wait for (health watchers, reflection) may take to end by themselves
// before gRPC cancels them.
constexpr std::chrono::milliseconds kShutdownGrace(500);

absl::Status CheckAtLeast(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("OPTION_INVALID", name, absl::StrCat(least, "..", most), absl::StrCat(value));
}

absl::Status CheckOptions(const ServerOptions& options, const BackendRegistry& registry) {
  constexpr int64_t kMost = int64_t{1} << 50;
  const Limits& limits = options.limits;
  // gRPC and protobuf end at 2 GiB.
  TESSERA_RETURN_IF_ERROR(CheckAtLeast("--max-message-bytes", limits.max_message_bytes, 1024, INT32_MAX));
  TESSERA_RETURN_IF_ERROR(CheckAtLeast("--max-batch-tokens", limits.max_batch_tokens, 1, kMost));
  TESSERA_RETURN_IF_ERROR(CheckAtLeast("--max-workspace-bytes", limits.max_workspace_bytes, 0, kMost));
  TESSERA_RETURN_IF_ERROR(
      CheckAtLeast("--max-concurrent-requests", limits.max_concurrent_requests, 1, 1 << 20));
  TESSERA_RETURN_IF_ERROR(CheckAtLeast("max_stream_requests", limits.max_stream_requests, 1, 1 << 20));
  TESSERA_RETURN_IF_ERROR(
      CheckAtLeast("--drain-timeout", options.drain_timeout.count(), 0, 1000LL * 86400 * 365));
  if (options.default_backend != "auto") {
    if (const auto found = registry.Find(options.default_backend); !found.ok()) {
      return Prefixed("--backend", found.status());
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShadow(const ShadowOptions& options, bool has_verifiers) {
  if (!(options.rate >= 0 && options.rate <= 1)) {  // nor NaN
    return InvalidArgument("OPTION_INVALID", "--shadow-verify", "a share in 0..1",
                           absl::StrCat(options.rate));
  }
  TESSERA_RETURN_IF_ERROR(CheckAtLeast("--shadow-max-bytes", options.max_bytes, 0, int64_t{1} << 50));
  if (options.rate == 0 || has_verifiers) return absl::OkStatus();
  return InvalidArgument("OPTION_INVALID", "--shadow-verify", "0, as there are no backends to verify with",
                         absl::StrCat(options.rate));
}

absl::Status CheckReach(const char* flag, const ListenAddress& address, const ServerOptions& options) {
  if (address.is_local() || options.insecure) return absl::OkStatus();
  return InvalidArgument(
      "LISTEN_INSECURE", flag,
      "a loopback address or unix:PATH, as there is no encryption yet (--insecure allows others)",
      Quoted(address.text));
}

absl::StatusOr<std::vector<ListenAddress>> ParseAddresses(const ServerOptions& options) {
  if (options.listen.empty())
    return InvalidArgument("LISTEN_MISSING", "--listen", "at least one address", "none");
  std::vector<ListenAddress> addresses;
  for (const std::string& text : options.listen) {
    TESSERA_ASSIGN_OR_RETURN(ListenAddress address, ParseListenAddress(text));
    TESSERA_RETURN_IF_ERROR(CheckReach("--listen", address, options));
    addresses.push_back(std::move(address));
  }
  return addresses;
}

// A Unix socket's file, removed at the end, but only if it is still ours.
class SocketFile {
 public:
  explicit SocketFile(std::string path) : path_(std::move(path)) {
    struct stat file {};
    if (stat(path_.c_str(), &file) == 0) inode_ = file.st_ino;
  }
  SocketFile(SocketFile&& other) noexcept
      : path_(std::move(other.path_)), inode_(std::exchange(other.inode_, 0)) {}
  SocketFile& operator=(SocketFile&&) = delete;
  ~SocketFile() { Remove(); }

  void Remove() {
    struct stat file {};
    if (inode_ != 0 && stat(path_.c_str(), &file) == 0 && file.st_ino == inode_) unlink(path_.c_str());
    inode_ = 0;
  }

 private:
  std::string path_;
  ino_t inode_ = 0;
};

}  // namespace

class Server::Impl {
 public:
  Impl(const ServerOptions& options, std::unique_ptr<BackendRegistry> registry,
       std::unique_ptr<BackendRegistry> verifiers)
      : options_(options), registry_(std::move(registry)), metrics_(*registry_), admission_(options_.limits) {
    if (options_.shadow.rate > 0 && verifiers != nullptr) {
      shadow_ = std::make_unique<ShadowVerifier>(options_.shadow, options_.limits.max_workspace_bytes,
                                                 std::move(verifiers), metrics_.shadow());
    }
  }

  ~Impl() {
    RequestDrain();
    Abort();
    StopServing();
    // The reactors' last steps may trail behind gRPC's own shutdown.
    admission_.WaitForEverybody();
  }

  absl::Status Start() {
    TESSERA_RETURN_IF_ERROR(CheckOptions(options_, *registry_));
    TESSERA_RETURN_IF_ERROR(CheckShadow(options_.shadow, shadow_ != nullptr));
    TESSERA_ASSIGN_OR_RETURN(const std::vector<ListenAddress> listen, ParseAddresses(options_));
    TESSERA_ASSIGN_OR_RETURN(scheduler_,
                             Scheduler::Create(*registry_, options_.limits,
                                               [this](const absl::Status& health) { OnDeviceLost(health); }));
    service_ = std::make_unique<AttentionService>(options_, *registry_, admission_, *scheduler_, metrics_,
                                                  shadow_.get());
    TESSERA_RETURN_IF_ERROR(StartMetrics());
    TESSERA_RETURN_IF_ERROR(Listen(listen));
    UpdateHealth();
    return absl::OkStatus();
  }

  void RequestDrain() {
    draining_ = true;
    UpdateHealth();  // first: once the door is closed, Wait may shut gRPC down before a watcher has heard
    admission_.CloseDoor();
    if (service_ != nullptr) service_->StartDraining();
    if (shadow_ != nullptr) shadow_->Stop();
  }

  void Abort() {
    admission_.GiveUp();
    if (scheduler_ != nullptr) scheduler_->Stop();
  }

  bool Wait() {
    admission_.WaitUntilDoorClosed();
    const Clock::time_point drain_began = Clock::now();
    if (!admission_.WaitUntilEmpty(drain_began + options_.drain_timeout)) {
      Log().warn("event=give_up requests={} streams={} after_ms={}", admission_.requests(),
                 admission_.streams(),
                 std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - drain_began).count());
      Abort();
      RemoveSocketFiles();  // the caller may leave the process without our destructor
      return false;
    }
    std::this_thread::sleep_for(kTurnAway);
    StopServing();
    return true;
  }

  const std::vector<std::string>& addresses() const { return addresses_; }
  std::string metrics_address() const {
    return metrics_endpoint_ == nullptr ? std::string() : metrics_endpoint_->address();
  }
  bool device_lost() const { return device_lost_; }

 private:
  void OnDeviceLost(const absl::Status& health) {
    Log().error("event=device_lost reason={}", Quoted(health.message()));
    device_lost_ = true;
    RequestDrain();
  }

  absl::Status StartMetrics() {
    if (options_.metrics_listen.empty()) return absl::OkStatus();
    TESSERA_ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options_.metrics_listen));
    TESSERA_RETURN_IF_ERROR(CheckReach("--metrics-listen", address, options_));
    TESSERA_ASSIGN_OR_RETURN(
        metrics_endpoint_, MetricsEndpoint::Start(address, metrics_, *registry_, [this] { return Load(); }));
    return absl::OkStatus();
  }

  ServerLoad Load() const {
    return {.requests_in_flight = admission_.requests(),
            .open_streams = admission_.streams(),
            .draining = draining_,
            .waiting = scheduler_->Waiting()};
  }

  absl::Status Listen(const std::vector<ListenAddress>& listen) {
    static const bool once = [] {
      grpc::EnableDefaultHealthCheckService(true);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
      return true;
    }();
    static_cast<void>(once);

    grpc::ServerBuilder builder;
    // We check sizes ourselves, with a better error; gRPC 1.51 has read the whole message either way when it
    // checks.
    builder.SetMaxReceiveMessageSize(-1);
    builder.SetMaxSendMessageSize(-1);
    // Tensors do not compress, and a few KiB that inflate to GiB would pass under any limit on what arrives.
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
    // Without this a second server on the same port would silently get half of the connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(service_.get());
    std::vector<int> ports(listen.size(), 0);
    for (size_t i = 0; i < listen.size(); ++i) {
      if (listen[i].is_unix()) TESSERA_RETURN_IF_ERROR(PrepareUnixPath(listen[i].unix_path));
      const std::string address = listen[i].Bound(listen[i].port);
      builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &ports[i]);
    }
    {
      // Requests come in, and may lose their device, before BuildAndStart has returned.
      std::lock_guard lock(health_mutex_);
      grpc_ = builder.BuildAndStart();
    }
    if (grpc_ == nullptr) {
      // gRPC binds in order and stops at the first failure; a bound Unix socket has port 1.
      const auto failed = std::find(ports.begin(), ports.end(), 0) - ports.begin();
      return CannotListen(listen[std::min(static_cast<size_t>(failed), listen.size() - 1)].text);
    }
    for (size_t i = 0; i < listen.size(); ++i) {
      addresses_.push_back(listen[i].Bound(ports[i]));
      if (listen[i].is_unix()) socket_files_.emplace_back(listen[i].unix_path);
    }
    return absl::OkStatus();
  }

  // SERVING until the drain begins, on whichever thread.
  void UpdateHealth() {
    std::lock_guard lock(health_mutex_);
    if (grpc_ == nullptr) return;
    grpc::HealthCheckServiceInterface* const health = grpc_->GetHealthCheckService();
    if (health == nullptr) return;
    health->SetServingStatus(!draining_);  // the server as a whole, ""
    health->SetServingStatus(kServiceName, !draining_);
  }

  // Closes the listeners and ends what calls remain: health watchers, and requests given up.
  void StopServing() {
    std::call_once(stopped_, [this] {
      if (grpc_ == nullptr) return;
      grpc_->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
      grpc_->Wait();
      RemoveSocketFiles();
    });
  }

  void RemoveSocketFiles() {
    for (SocketFile& file : socket_files_) file.Remove();
  }

  const ServerOptions options_;
  const std::unique_ptr<BackendRegistry> registry_;
  Metrics metrics_;
  std::unique_ptr<ShadowVerifier> shadow_;
  Admission admission_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<AttentionService> service_;
  std::atomic<bool> draining_ = false;
  std::atomic<bool> device_lost_ = false;
  std::mutex health_mutex_;
  std::unique_ptr<grpc::Server> grpc_;
  std::vector<std::string> addresses_;
  std::vector<SocketFile> socket_files_;
  std::once_flag stopped_;
  std::unique_ptr<MetricsEndpoint> metrics_endpoint_;  // last: its threads read all of the above
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      std::unique_ptr<BackendRegistry> registry,
                                                      std::unique_ptr<BackendRegistry> verifiers) {
  auto impl = std::make_unique<Impl>(options, std::move(registry), std::move(verifiers));
  TESSERA_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

const std::vector<std::string>& Server::addresses() const { return impl_->addresses(); }
std::string Server::metrics_address() const { return impl_->metrics_address(); }
void Server::RequestDrain() { impl_->RequestDrain(); }
void Server::Abort() { impl_->Abort(); }
bool Server::Wait() { return impl_->Wait(); }
bool Server::device_lost() const { return impl_->device_lost(); }
bool Server::Drain() {
  RequestDrain();
  return Wait();
}

}  // namespace tessera
