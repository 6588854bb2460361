#include "server/metrics_endpoint.h"

#include <netdb.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "backend/core/error.h"
#include "server/build_info.h"
#include "server/log.h"

namespace tessera {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

constexpr const char* kPhaseNames[kNumPhases] = {"queue", "transfer_in", "compute", "transfer_out", "total"};
// The one way in which tensors travel.
constexpr char kInline[] = "inline";

// One family of metrics; Add* append a series.
class Family {
 public:
  Family(MetricType type, std::string name, std::string help) {
    family_.type = type;
    family_.name = std::move(name);
    family_.help = std::move(help);
  }

  void Add(Labels labels, double value) {
    ClientMetric& metric = NewMetric(std::move(labels));
    if (family_.type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
  }

  void Add(Labels labels, const Histogram& histogram) {
    ClientMetric::Histogram& to = NewMetric(std::move(labels)).histogram;
    const std::vector<uint64_t> counts = histogram.counts();
    for (size_t i = 0; i < counts.size(); ++i) {
      to.sample_count += counts[i];
      const bool is_last = i == histogram.bounds().size();
      to.bucket.push_back(
          {.cumulative_count = to.sample_count,
           .upper_bound = is_last ? std::numeric_limits<double>::infinity() : histogram.bounds()[i]});
    }
    to.sample_sum = histogram.sum();
  }

  MetricFamily Take() { return std::move(family_); }

 private:
  ClientMetric& NewMetric(Labels labels) {
    ClientMetric& metric = family_.metric.emplace_back();
    metric.label = std::move(labels);
    return metric;
  }

  MetricFamily family_;
};

Family CounterFamily(const std::string& name, const std::string& help) {
  return Family(MetricType::Counter, name, help);
}
Family GaugeFamily(const std::string& name, const std::string& help) {
  return Family(MetricType::Gauge, name, help);
}
Family HistogramFamily(const std::string& name, const std::string& help) {
  return Family(MetricType::Histogram, name, help);
}

std::string CodeName(int code) { return absl::StatusCodeToString(static_cast<absl::StatusCode>(code)); }

MetricFamily BuildInfo() {
  Family family = GaugeFamily("tessera_build_info", "1; the labels say which Tessera this is.");
  family.Add({{"version", Version()}, {"commit", GitCommit()}}, 1);
  return family.Take();
}

MetricFamily Requests(const Metrics& metrics) {
  Family family =
      CounterFamily("tessera_requests_total",
                    "Requests that ended, by how they ended for the client; those turned away too.");
  for (const auto& backend : metrics.backends()) {
    for (int method = 0; method < kNumMethods; ++method) {
      for (int code = 0; code < kNumStatusCodes; ++code) {
        const uint64_t count = backend->requests[static_cast<size_t>(method)][static_cast<size_t>(code)];
        if (count == 0) continue;
        family.Add({{"method", MethodName(static_cast<Method>(method))},
                    {"backend", backend->name},
                    {"code", CodeName(code)}},
                   static_cast<double>(count));
      }
    }
  }
  return family.Take();
}

MetricFamily Streams(const Metrics& metrics) {
  Family family = CounterFamily("tessera_streams_total", "AttendStream calls that ended, by status code.");
  for (int code = 0; code < kNumStatusCodes; ++code) {
    const uint64_t count = metrics.streams(static_cast<absl::StatusCode>(code));
    if (count > 0) family.Add({{"code", CodeName(code)}}, static_cast<double>(count));
  }
  return family.Take();
}

MetricFamily Rejections(const Metrics& metrics) {
  Family family =
      CounterFamily("tessera_rejections_total",
                    "Requests answered with an error, by the reason in its google.rpc.ErrorInfo.");
  for (const auto& [reason, count] : metrics.rejections()) {
    family.Add({{"reason", reason}}, static_cast<double>(count));
  }
  return family.Take();
}

// Series of backends that computed nothing yet are left out: a histogram is long.
bool HasComputed(const BackendMetrics& backend) { return backend.phases[kTotal].sum() > 0; }

void AddDistributions(const Metrics& metrics, std::vector<MetricFamily>& families) {
  Family duration =
      HistogramFamily("tessera_request_duration_seconds",
                      "Time of computed requests by phase; compute is that of the shared launch.");
  Family requests = HistogramFamily("tessera_batch_requests", "Requests that shared a launch.");
  Family sequences = HistogramFamily("tessera_batch_sequences", "Sequences of a launch.");
  for (const auto& backend : metrics.backends()) {
    if (!HasComputed(*backend)) continue;
    const ClientMetric::Label label{"backend", backend->name};
    for (size_t phase = 0; phase < kNumPhases; ++phase) {
      duration.Add({label, {"phase", kPhaseNames[phase]}}, backend->phases[phase]);
    }
    requests.Add({label}, backend->batch_requests);
    sequences.Add({label}, backend->batch_sequences);
  }
  for (Family* family : {&duration, &requests, &sequences}) families.push_back(family->Take());
}

void AddWork(const Metrics& metrics, std::vector<MetricFamily>& families) {
  Family flops =
      CounterFamily("tessera_flops_total",
                    "Floating-point operations of computed requests: 2 per score and head dimension.");
  Family seconds = CounterFamily("tessera_compute_seconds_total",
                                 "Time that launches computed; flops by this time is the achieved rate.");
  Family hbm =
      CounterFamily("tessera_hbm_bytes_total", "Device-memory traffic of computed requests, as modelled.");
  Family workspace =
      GaugeFamily("tessera_workspace_peak_bytes", "Largest device scratch of any launch so far.");
  for (const auto& backend : metrics.backends()) {
    if (!HasComputed(*backend)) continue;
    const ClientMetric::Label label{"backend", backend->name};
    flops.Add({label}, backend->flops);
    seconds.Add({label}, backend->compute_seconds);
    hbm.Add({label, {"direction", "read"}}, backend->hbm_read);
    hbm.Add({label, {"direction", "write"}}, backend->hbm_write);
    workspace.Add({label}, static_cast<double>(backend->workspace_peak));
  }
  for (Family* family : {&flops, &seconds, &hbm, &workspace}) families.push_back(family->Take());
}

void AddCopies(const CopyMetrics& copies, std::vector<MetricFamily>& families) {
  const ClientMetric::Label transport{"transport", kInline};
  Family payload =
      CounterFamily("tessera_payload_bytes_total",
                    "Bytes of the tensors, slopes, sinks and scales of computed requests (in), and of the "
                    "tensors of their replies (out).");
  payload.Add({transport, {"direction", "in"}}, static_cast<double>(copies.payload_in));
  payload.Add({transport, {"direction", "out"}}, static_cast<double>(copies.payload_out));
  Family copied =
      CounterFamily("tessera_copied_bytes_total",
                    "Tensor bytes copied within the host, or moved between host and device memory.");
  const auto add = [&](const char* path, const char* direction, int64_t bytes) {
    copied.Add({transport, {"path", path}, {"direction", direction}}, static_cast<double>(bytes));
  };
  add("host", "in", copies.host_in);
  add("host", "out", copies.host_out);
  add("device", "in", copies.device_in);
  add("device", "out", copies.device_out);
  families.push_back(payload.Take());
  families.push_back(copied.Take());
}

void AddLoad(const ServerLoad& load, std::vector<MetricFamily>& families) {
  const auto add = [&families](const char* name, const char* help, double value) {
    Family family = GaugeFamily(name, help);
    family.Add({}, value);
    families.push_back(family.Take());
  };
  add("tessera_requests_in_flight", "Requests between arrival and the end of their reply.",
      load.requests_in_flight);
  add("tessera_open_streams", "AttendStream calls that are open.", load.open_streams);
  add("tessera_draining", "1 once the server takes no new work, else 0.", load.draining ? 1 : 0);
  Family depth = GaugeFamily("tessera_queue_depth", "Requests that wait for a launch.");
  for (const auto& [device, waiting] : load.waiting)
    depth.Add({{"device", device}}, static_cast<double>(waiting));
  families.push_back(depth.Take());
}

void AddShadow(const ShadowMetrics& shadow, std::vector<MetricFamily>& families) {
  constexpr const char* kResultNames[kNumShadowResults] = {"verified", "dropped", "failed"};
  Family requests =
      CounterFamily("tessera_shadow_requests_total", "Requests sampled for shadow verification.");
  for (int result = 0; result < kNumShadowResults; ++result) {
    const uint64_t count = shadow.count(static_cast<ShadowResult>(result));
    requests.Add({{"result", kResultNames[result]}}, static_cast<double>(count));
  }
  Family pending =
      GaugeFamily("tessera_shadow_pending_bytes", "Payloads and replies kept for shadow verification.");
  pending.Add({}, static_cast<double>(shadow.pending_bytes()));
  Family max = GaugeFamily(
      "tessera_shadow_relative_error_max",
      "Greatest relative error of a verified request so far, against standard attention rounded to "
      "the same dtype; dtype: the coarser of the inputs' and the output's.");
  Family last =
      GaugeFamily("tessera_shadow_relative_error_last", "Relative error of the last verified request.");
  for (const auto& [key, errors] : shadow.errors()) {
    const Labels labels = {{"backend", key.backend}, {"dtype", key.dtype}, {"head_dim", key.head_dim}};
    max.Add(labels, errors.max);
    last.Add(labels, errors.last);
  }
  for (Family* family : {&requests, &pending, &max, &last}) families.push_back(family->Take());
}

void AddDeviceMemory(const BackendRegistry& registry, std::vector<MetricFamily>& families) {
  Family used = GaugeFamily("tessera_device_memory_used_bytes", "Device memory in use, by whomever.");
  Family size = GaugeFamily("tessera_device_memory_size_bytes", "Device memory that there is.");
  for (const Device* device : registry.devices()) {
    const absl::StatusOr<DeviceInfo> info = device->Info();
    if (!info.ok() || info->total_memory_bytes == 0) continue;  // it does not say
    const ClientMetric::Label label{"device", device->id()};
    used.Add({label}, static_cast<double>(info->total_memory_bytes - info->free_memory_bytes));
    size.Add({label}, static_cast<double>(info->total_memory_bytes));
  }
  families.push_back(used.Take());
  families.push_back(size.Take());
}

class Collector : public prometheus::Collectable {
 public:
  Collector(const Metrics& metrics, const BackendRegistry& registry, std::function<ServerLoad()> read_load)
      : metrics_(metrics), registry_(registry), read_load_(std::move(read_load)) {}

  std::vector<MetricFamily> Collect() const override {
    std::vector<MetricFamily> families = {BuildInfo(), Requests(metrics_), Rejections(metrics_),
                                          Streams(metrics_)};
    AddDistributions(metrics_, families);
    AddWork(metrics_, families);
    AddCopies(metrics_.copies(), families);
    AddLoad(read_load_(), families);
    AddDeviceMemory(registry_, families);
    AddShadow(metrics_.shadow(), families);
    return families;
  }

 private:
  const Metrics& metrics_;
  const BackendRegistry& registry_;
  const std::function<ServerLoad()> read_load_;
};

// Connects again and again, while it lives. The HTTP server looks whether it is to stop when somebody
// connects, else every two seconds only, which is long for a program that ends.
class Knocker {
 public:
  Knocker(const std::string& host, int port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    if (getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &addresses_) != 0) addresses_ = nullptr;
    thread_ = std::thread([this] { Knock(); });
  }
  ~Knocker() {
    stopping_ = true;
    thread_.join();
    if (addresses_ != nullptr) freeaddrinfo(addresses_);
  }
  Knocker(const Knocker&) = delete;
  Knocker& operator=(const Knocker&) = delete;

 private:
  void Knock() const {
    while (!stopping_) {
      for (const addrinfo* address = addresses_; address != nullptr; address = address->ai_next) {
        const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) continue;
        static_cast<void>(connect(fd, address->ai_addr, address->ai_addrlen));  // whether it succeeds or not
        close(fd);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  addrinfo* addresses_ = nullptr;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace

class MetricsEndpoint::Impl {
 public:
  Impl(const ListenAddress& address, std::shared_ptr<Collector> collector)
      : collector_(std::move(collector)),
        exposer_(std::make_unique<prometheus::Exposer>(address.Bound(address.port))),
        host_(address.host) {
    exposer_->RegisterCollectable(collector_);
  }
  ~Impl() {
    const Knocker knocker(host_, port());
    exposer_.reset();
  }
  int port() const { return exposer_->GetListeningPorts().front(); }

 private:
  const std::shared_ptr<Collector> collector_;
  std::unique_ptr<prometheus::Exposer> exposer_;  // its threads use the collector
  const std::string host_;
};

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<Impl> impl, std::string address)
    : impl_(std::move(impl)), address_(std::move(address)) {}
MetricsEndpoint::~MetricsEndpoint() = default;

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const ListenAddress& address, const Metrics& metrics, const BackendRegistry& registry,
    std::function<ServerLoad()> read_load) {
  if (address.is_unix()) {
    return InvalidArgument("LISTEN_ADDRESS_INVALID", "--metrics-listen", "HOST:PORT or [IPV6]:PORT",
                           Quoted(address.text));
  }
  auto collector = std::make_shared<Collector>(metrics, registry, std::move(read_load));
  try {
    auto impl = std::make_unique<Impl>(address, std::move(collector));
    std::string bound = address.Bound(impl->port());
    return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(impl), std::move(bound)));
  } catch (const std::exception&) {
    return CannotListen(address.text);
  }
}

}  // namespace tessera
