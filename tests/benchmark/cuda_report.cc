#include "tests/benchmark/cuda_report.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace tessera::benchmark {
namespace {

struct Summary {
  double median, least, most;
};

Summary Summarise(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

Summary Ratios(const BackendResult& result, const BackendResult& first) {
  std::vector<double> ratios;
  for (size_t i = 0; i < result.microseconds.size(); ++i) {
    ratios.push_back(result.microseconds[i] / first.microseconds[i]);
  }
  return Summarise(std::move(ratios));
}

std::string Percent(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.0f%%", 100 * part / whole) : "-";
}

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return quoted + '"';
}

// NaN and infinities, which JSON does not have, become null.
std::string Number(double value) {
  return value - value == 0 ? absl::StrFormat("%.9g", value) : std::string("null");
}

std::string ToJson(const Ceilings& ceilings) {
  return absl::StrFormat(R"({"copy_gb_per_s": %s, "matmul_tflop_per_s": %s})", Number(ceilings.copy_gb_per_s),
                         Number(ceilings.matmul_tflop_per_s));
}

std::string ToJson(const BackendResult& r) {
  if (!r.not_run.empty()) {
    return absl::StrFormat(R"({"backend": %s, "not_run": %s})", Quoted(r.backend), Quoted(r.not_run));
  }
  std::vector<std::string> times;
  for (const double time : r.microseconds) times.push_back(Number(time));
  return absl::StrFormat(
      R"({"backend": %s, "kernel": %s, "tile_q": %d, "tile_kv": %d, "launches": %d, "workspace_bytes": %d, )"
      R"("hbm_read_bytes": %d, "hbm_write_bytes": %d, "relative_error": %s, "worst_row_error": %s, )"
      R"("checked_rows": %d, "failure": %s, "launches_per_round": %d, "microseconds": [%s]})",
      Quoted(r.backend), Quoted(r.plan.kernel), r.plan.tile_q, r.plan.tile_kv, r.plan.launches,
      r.plan.workspace_bytes, r.traffic.read_bytes, r.traffic.write_bytes, Number(r.error.relative),
      Number(r.error.worst_row), r.error.rows, Quoted(r.error.failure), r.launches_per_round,
      absl::StrJoin(times, ", "));
}

std::string ToJson(const CellResult& cell) {
  std::vector<std::string> backends;
  for (const BackendResult& result : cell.backends) backends.push_back(ToJson(result));
  return absl::StrFormat(
      R"({"cell": %s, "dtype": %s, "flops": %d, "operand_bytes": %d, "copies": %d, "backends": [%s]})",
      Quoted(cell.cell), Quoted(cell.dtype), cell.flops, cell.operand_bytes, cell.copies,
      absl::StrJoin(backends, ",\n    "));
}

}  // namespace

std::string GpuState(int ordinal) {
  const std::string command = absl::StrCat(
      "nvidia-smi --format=csv,noheader --query-gpu=driver_version,clocks.sm,clocks.mem,power.draw,"
      "temperature.gpu -i ",
      ordinal, " 2>/dev/null");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  char line[256] = "";
  if (pipe == nullptr || std::fgets(line, sizeof(line), pipe.get()) == nullptr) return "";
  absl::string_view state = absl::StripAsciiWhitespace(line);
  return absl::StrCat("driver, SM clock, memory clock, power, temperature: ", std::string(state));
}

void PrintHeader(const Report& report) {
  std::printf("%s (%s), commit %s, seed %llu\n", report.device.name.c_str(), report.device_id.c_str(),
              report.commit.c_str(), static_cast<unsigned long long>(report.seed));
  if (!report.state_begin.empty()) std::printf("%s\n", report.state_begin.c_str());
  std::printf("copy %.0f GB/s, bf16 matmul %.0f TFLOP/s\n\n", report.ceilings_begin.copy_gb_per_s,
              report.ceilings_begin.matmul_tflop_per_s);
  std::printf("%-18s %-5s %-14s %9s %8s %7s %7s %6s %6s %8s  %s\n", "cell", "dtype", "backend", "ms",
              "TFLOP/s", "GB/s", "spread", "matmul", "copy", "error", "time over the first's");
}

void PrintCell(const Report& report, const CellResult& cell) {
  const BackendResult* first = nullptr;
  for (const BackendResult& result : cell.backends) {
    std::printf("%-18s %-5s %-14s ", cell.cell.c_str(), cell.dtype.c_str(), result.backend.c_str());
    if (!result.timed()) {
      std::printf("%s\n", result.not_run.empty() ? ("WRONG: " + result.error.failure).c_str()
                                                 : ("not run: " + result.not_run).c_str());
      continue;
    }
    const Summary time = Summarise(result.microseconds);
    const double tflop_per_s = static_cast<double>(cell.flops) / time.median * 1e-6;
    const double gb_per_s = static_cast<double>(cell.operand_bytes) / time.median * 1e-3;
    std::printf("%9.4f %8.1f %7.0f %6.1f%% %6s %6s %8.1e", time.median * 1e-3, tflop_per_s, gb_per_s,
                100 * (time.most - time.least) / time.median,
                Percent(tflop_per_s, report.ceilings_begin.matmul_tflop_per_s).c_str(),
                Percent(gb_per_s, report.ceilings_begin.copy_gb_per_s).c_str(), result.error.relative);
    if (first == nullptr) {
      first = &result;
    } else {
      const Summary ratio = Ratios(result, *first);
      std::printf("  %.2f (%.2f-%.2f)", ratio.median, ratio.least, ratio.most);
    }
    std::printf("\n");
  }
  std::fflush(stdout);
}

std::string ToJson(const Report& report) {
  std::vector<std::string> cells;
  for (const CellResult& cell : report.cells) cells.push_back(ToJson(cell));
  return absl::StrFormat(
      "{\"benchmark\": \"cuda_attention\", \"commit\": %s, \"seed\": %d,\n"
      " \"device\": {\"id\": %s, \"name\": %s, \"multiprocessors\": %d, \"memory_bytes\": %d, \"l2_bytes\": "
      "%d},\n"
      " \"state\": {\"begin\": %s, \"end\": %s},\n \"ceilings\": {\"begin\": %s, \"end\": %s},\n"
      " \"cells\": [\n  %s\n]}\n",
      Quoted(report.commit), report.seed, Quoted(report.device_id), Quoted(report.device.name),
      report.device.compute_units, report.device.total_memory_bytes, report.device.l2_bytes,
      Quoted(report.state_begin), Quoted(report.state_end), ToJson(report.ceilings_begin),
      ToJson(report.ceilings_end), absl::StrJoin(cells, ",\n  "));
}

}  // namespace tessera::benchmark
