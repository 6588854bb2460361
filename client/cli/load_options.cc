#include "client/cli/load_options.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/cli.h"
#include "client/cli/random.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

using load::Clock;

constexpr double kMaxSeconds = 1e6;
constexpr double kUnboundedSeconds = 86400;  // of a phase that a count ends
constexpr int64_t kMaxConcurrency = 100'000;
constexpr int64_t kOverloadConcurrency = 16;
constexpr double kOverloadDeadlineMs = 1000;

void RegisterLoad(OptionTable& table, LoadOptions& options) {
  table.Section("Load (one of --concurrency, --rate, --trace, --find-rate, --overload)");
  table.Value(
      "concurrency", "N,...|A..B", &options.concurrency,
      "closed loop: N callers, each of which sends when its last reply is there; several are a sweep, A..B "
      "one that doubles; default 1");
  table.Value(
      "rate", "X,...", &options.rates,
      "open loop: requests a second, sent when they are due whatever the server does; several are a sweep");
  table.Choice("arrivals", {"poisson", "constant"}, &options.arrivals, "of an open loop; default poisson");
  table.Value(
      "trace", "FILE", &options.trace,
      "open loop: replay a file of lines SECONDS[,Q_LEN[,KV_LEN]]; lengths, where given, replace --q-len "
      "and --kv-len");
  table.Value("trace-speed", "X", &options.trace_speed, "replay so many times as fast; default 1");
  table.Switch("find-rate", &options.find_rate, "search for the highest rate whose p99 keeps to --p99-limit");
  table.Value("p99-limit", "MS", &options.p99_limit_ms, "of --find-rate");
  table.Value("overload", "X", &options.overload,
              "offer X times the capacity for --duration, with half the capacity before and after, up to 5 s "
              "each: what is "
              "refused, what is in time, and how long recovery takes");
  table.Value(
      "capacity", "X", &options.capacity,
      "requests a second, for --overload; default measured first, by a closed loop of --concurrency (16)");
}

void RegisterTime(OptionTable& table, LoadOptions& options) {
  table.Section("Time");
  table.Value("warmup", "SECONDS", &options.warmup, "at the start of each phase, not counted; default 1");
  table.Value("duration", "SECONDS", &options.duration,
              "of each phase; default 10, or what --count or --trace take");
  table.Value("count", "N", &options.count, "end a phase after N requests");
  table.Value("deadline", "MS", &options.deadline_ms,
              "of each request, from its scheduled send; default none, 1000 with --overload");
  table.Value("rounds", "N", &options.rounds, "times that each phase runs, all in turn; default 1");
}

void RegisterRequests(OptionTable& table, LoadOptions& options) {
  table.Section("Requests (DIST: N, A..B, A/B/C or lognormal:MEDIAN:SIGMA:MAX)");
  table.Value("dtype", "NAME,...", &options.dtypes,
              "of fp32, fp16, bf16 and fp8_e4m3, in equal shares; default fp32");
  table.Value("heads", "N", &options.shape.q_heads, "query heads; default 8");
  table.Value("kv-heads", "N", &options.kv_heads, "default --heads");
  table.Value("head-dim", "N", &options.shape.head_dim, "default 64");
  table.Value("sequences", "DIST", &options.sequences,
              "in one request, each with lengths of its own; default 1");
  table.Value("q-len", "DIST", &options.q_len, "queries of a sequence; default 64");
  table.Value("kv-len", "DIST", &options.kv_len, "keys of a sequence; default as many as queries");
  table.Switch("causal", &options.causal, "a query sees keys up to its own position");
  table.Value("window-left", "N", &options.window_left, "keys left of a query that stay visible");
  table.Value("scale", "X", &options.scale, "factor of the scores; default 1/sqrt(head_dim)");
  table.Value("softcap", "X", &options.softcap, "scores become X * tanh(score / X)");
  table.Choice("out-dtype", {"fp32", "fp16", "bf16"}, &options.output_dtype,
               "of the output; default that of q");
  table.Switch("lse", &options.shape.lse, "also ask for the log-sum-exp");
  table.Value("backend", "NAME", &options.shape.backend, "default auto");
  table.Value("distinct", "N", &options.shape.distinct,
              "requests drawn beforehand, sent in random order; default 16");
  table.Value("seed", "N", &options.seed,
              "repeats shapes, tensors and arrivals; default drawn, always printed");
}

}  // namespace

OptionTable MakeLoadTable(LoadOptions& options) {
  OptionTable table(
      "load", "",
      "Sends attention requests to one or several servers and reports throughput, latency, errors and\n"
      "the bottleneck. Latency counts from when a request was due, not from when it could be sent: a\n"
      "server that stalls is charged for all that it kept waiting. Exits with 1 when a reply is wrong\n"
      "or no request succeeds.");
  RegisterLoad(table, options);
  RegisterTime(table, options);
  RegisterRequests(table, options);
  table.Section("Verification");
  table.Value(
      "verify", "SHARE", &options.verify,
      "of the replies, held to the oracle while the load runs; default 0.01; 0 for backends that only "
      "pretend to compute");
  table.Value("oracle", "NAME", &options.oracle, "backend to compare with; default cpu_standard");
  table.Section("Client");
  table.Value("server", "ADDRESS,...", &options.servers,
              "HOST:PORT or unix:PATH, several to compare; default $TESSERA_SERVER, else 127.0.0.1:50051");
  table.Value("channels", "N", &options.channels, "connections to each server; default 1");
  table.Value("threads", "N", &options.threads,
              "that take replies; an open loop has as many that send; default 1");
  table.Value("max-in-flight", "N", &options.max_in_flight,
              "requests of an open loop; those due beyond are counted as not sent; default 100000");
  table.Section("Results");
  table.Value("json", "FILE", &options.json,
              "all figures, histograms and timelines; - for stdout, without the tables");
  table.Value("csv", "FILE", &options.csv, "one line for each phase");
  table.Value(
      "metrics", "HOST:PORT", &options.metrics,
      "of the server's Prometheus endpoint: compare its totals with those here; other clients must be "
      "silent");
  table.Value("html", "FILE", &options.html, "a page with plots");
  table.Footer(
      "Examples:\n"
      "  tessera load --concurrency=1..32 --dtype=bf16 --heads=8 --q-len=16..512 --causal "
      "--html=report.html\n"
      "  tessera load --rate=500,1000,2000 --deadline=100 --server=127.0.0.1:50051,unix:/run/tessera.sock\n"
      "  tessera load --find-rate --p99-limit=50 --q-len=lognormal:256:0.8:4096");
  return table;
}

namespace {

absl::Status Within(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return UsageError(absl::StrCat("--", name, ": expected ", low, " to ", high, ", got ", value));
}

Clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// "1,2,8", or "1..8" for 1,2,4,8.
absl::StatusOr<std::vector<int64_t>> ParseConcurrency(const std::string& text) {
  std::vector<int64_t> values;
  const std::vector<std::string> ends = absl::StrSplit(text, "..");
  int64_t low = 0, high = 0;
  if (ends.size() == 2 && absl::SimpleAtoi(ends[0], &low) && absl::SimpleAtoi(ends[1], &high) && low >= 1) {
    for (int64_t n = low; n < high; n *= 2) values.push_back(n);
    values.push_back(high);
  } else if (!ParseValue(text, &values).ok()) {
    values.clear();
  }
  const auto bad = [](int64_t n) { return n < 1 || n > kMaxConcurrency; };
  if (values.empty() || std::any_of(values.begin(), values.end(), bad) || (ends.size() == 2 && low > high)) {
    return UsageError(absl::StrCat("--concurrency: expected numbers from 1 to ", kMaxConcurrency,
                                   " such as 8, 1,2,8 or 1..32, got '", text, "'"));
  }
  return values;
}

absl::StatusOr<std::optional<load::Distribution>> ParseDistribution(const char* name,
                                                                    const std::string& text) {
  if (text.empty()) return std::optional<load::Distribution>();
  absl::StatusOr<load::Distribution> parsed = load::Distribution::Parse(text);
  if (!parsed.ok()) return UsageError(absl::StrCat("--", name, ": ", std::string(parsed.status().message())));
  return std::optional<load::Distribution>(*std::move(parsed));
}

absl::StatusOr<load::AttendShape> MakeShape(const LoadOptions& options) {
  load::AttendShape shape = options.shape;
  shape.kv_heads = options.kv_heads.value_or(shape.q_heads);
  shape.dtypes.clear();
  for (const std::string& name : options.dtypes) {
    const auto dtype = ParseDType(name);
    if (!dtype || *dtype == v1::DATA_TYPE_BOOL) {
      return UsageError(absl::StrCat("--dtype: expected fp32, fp16, bf16 or fp8_e4m3, got '", name, "'"));
    }
    shape.dtypes.push_back(*dtype);
  }
  if (shape.dtypes.empty()) return UsageError("--dtype: expected at least one name, got none");
  TESSERA_TRY_ASSIGN(shape.sequences, ParseDistribution("sequences", options.sequences));
  TESSERA_TRY_ASSIGN(shape.q_len, ParseDistribution("q-len", options.q_len));
  TESSERA_TRY_ASSIGN(shape.kv_len, ParseDistribution("kv-len", options.kv_len));
  shape.output_dtype = ParseDType(options.output_dtype).value_or(v1::DATA_TYPE_UNSPECIFIED);
  shape.options.set_causal(options.causal);
  if (options.window_left) shape.options.set_window_left(*options.window_left);
  if (options.scale) shape.options.set_scale(*options.scale);
  if (options.softcap) shape.options.set_softcap(*options.softcap);
  return shape;
}

absl::Status CheckOneLoad(const LoadOptions& options) {
  std::vector<std::string> given;
  if (!options.concurrency.empty() && !options.overload) given.push_back("--concurrency");
  if (!options.rates.empty()) given.push_back("--rate");
  if (!options.trace.empty()) given.push_back("--trace");
  if (options.find_rate) given.push_back("--find-rate");
  if (options.overload) given.push_back("--overload");
  if (given.size() > 1) {
    return UsageError(absl::StrCat(given[0], " and ", given[1], " are two kinds of load; expected one"));
  }
  if (options.find_rate != options.p99_limit_ms.has_value()) {
    return UsageError("--find-rate and --p99-limit go together; expected both, got one");
  }
  if (options.trace_speed != 1 && options.trace.empty()) {
    return UsageError("--trace-speed is for --trace, which is missing");
  }
  if (options.capacity && !options.overload)
    return UsageError("--capacity is for --overload, which is missing");
  return absl::OkStatus();
}

absl::Status CheckRanges(const LoadOptions& options) {
  for (float rate : options.rates) TESSERA_TRY(Within("rate", rate, 1e-3, 1e7));
  TESSERA_TRY(Within("trace-speed", options.trace_speed, 1e-6, 1e6));
  TESSERA_TRY(Within("p99-limit", options.p99_limit_ms.value_or(1), 1e-3, 1e9));
  TESSERA_TRY(Within("overload", options.overload.value_or(1), 0.1, 1000));
  TESSERA_TRY(Within("capacity", options.capacity.value_or(1), 1e-3, 1e7));
  TESSERA_TRY(Within("warmup", options.warmup, 0, kMaxSeconds));
  TESSERA_TRY(Within("duration", options.duration.value_or(1), 1e-3, kMaxSeconds));
  TESSERA_TRY(Within("count", static_cast<double>(options.count.value_or(1)), 1, 1e12));
  TESSERA_TRY(Within("deadline", options.deadline_ms.value_or(1), 1e-3, 1e9));
  TESSERA_TRY(Within("rounds", static_cast<double>(options.rounds), 1, 1000));
  TESSERA_TRY(Within("verify", options.verify, 0, 1));
  TESSERA_TRY(Within("channels", static_cast<double>(options.channels), 1, 1024));
  TESSERA_TRY(Within("threads", static_cast<double>(options.threads), 1, 256));
  TESSERA_TRY(Within("max-in-flight", static_cast<double>(options.max_in_flight), 1, 1e7));
  if (options.servers.empty()) return UsageError("--server: expected at least one address, got none");
  return absl::OkStatus();
}

void SetTimes(const LoadOptions& options, const std::optional<load::Trace>& trace,
              load::LoadTestSettings& settings) {
  load::PhaseSettings& phase = settings.phase;
  double seconds = options.duration.value_or(options.count ? kUnboundedSeconds : 10);
  phase.warmup = Seconds(options.warmup);
  if (trace) {
    phase.warmup = Clock::duration(0);  // a trace is replayed, and counted, from its beginning
    const double length = 1e-9 * static_cast<double>(trace->back().at.count()) / options.trace_speed;
    if (!options.duration) seconds = length + 1e-6;
  }
  phase.duration = Seconds(seconds);
  phase.count = options.count;
  phase.threads = static_cast<int>(options.threads);
  phase.max_in_flight = options.max_in_flight;
  std::optional<double> deadline_ms = options.deadline_ms;
  if (options.overload && !deadline_ms) deadline_ms = kOverloadDeadlineMs;
  if (deadline_ms) phase.deadline = Seconds(*deadline_ms / 1e3);
}

}  // namespace

absl::StatusOr<LoadPlan> MakeLoadPlan(const LoadOptions& options) {
  TESSERA_TRY(CheckOneLoad(options));
  TESSERA_TRY(CheckRanges(options));
  LoadPlan plan;
  TESSERA_TRY_ASSIGN(plan.shape, MakeShape(options));
  load::LoadTestSettings& settings = plan.settings;
  settings.seed = options.seed.value_or(Random::DrawSeed());
  settings.arrivals = options.arrivals == "poisson" ? load::Arrivals::kPoisson : load::Arrivals::kConstant;
  settings.rounds = static_cast<int>(options.rounds);
  settings.verify = options.verify;
  settings.oracle = options.oracle;
  settings.metrics = options.metrics;
  if (!options.trace.empty()) {
    TESSERA_TRY_ASSIGN(plan.trace, load::ReadTrace(options.trace));
    settings.points.push_back(load::TracePoint(*plan.trace, options.trace_speed));
  }
  SetTimes(options, plan.trace, settings);
  for (float rate : options.rates) {
    settings.points.push_back(load::OpenPoint(settings.arrivals, double{rate}, settings.seed));
  }
  std::vector<int64_t> concurrency{options.overload ? kOverloadConcurrency : 1};
  if (!options.concurrency.empty()) {
    TESSERA_TRY_ASSIGN(concurrency, ParseConcurrency(options.concurrency));
  }
  if (options.find_rate) {
    settings.search = load::SearchSettings{Seconds(*options.p99_limit_ms / 1e3)};
  } else if (options.overload) {
    settings.overload = load::OverloadSettings{*options.overload, options.capacity, concurrency.back()};
  } else if (settings.points.empty()) {
    for (int64_t n : concurrency) settings.points.push_back(load::ClosedPoint(n));
  }
  return plan;
}

}  // namespace tessera::client
