#include "client/cli/ledger_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/table.h"

namespace tessera::client {
namespace {

// Rows of one block: a name and a value.
using Block = std::vector<std::pair<std::string, std::string>>;

std::string Copies(int64_t count, int64_t bytes) {
  return count == 0 ? "0" : absl::StrCat(count, " (", HumanBytes(bytes), ")");
}

Block MemoryBlock(const v1::MemoryLedger& memory) {
  return {
      {"input", HumanBytes(memory.input())},
      {"output", HumanBytes(memory.output())},
      {"workspace peak", HumanBytes(memory.workspace_peak())},
      {"device peak", HumanBytes(memory.device_peak())},
      {"staging peak", HumanBytes(memory.staging_peak())},
      {"kv cache read", HumanBytes(memory.kv_cache_resident())},
      {"host copies in", Copies(memory.host_copies_in(), memory.host_copies_in_bytes())},
      {"host copies out", Copies(memory.host_copies_out(), memory.host_copies_out_bytes())},
      {"to device", Copies(memory.transfers_to_device(), memory.transfers_to_device_bytes())},
      {"from device", Copies(memory.transfers_from_device(), memory.transfers_from_device_bytes())},
  };
}

Block TrafficBlock(const v1::TrafficLedger& traffic) {
  return {
      {"read", HumanBytes(traffic.hbm_read())},
      {"written", HumanBytes(traffic.hbm_write())},
      {"standard moves", HumanBytes(traffic.standard_hbm_bytes())},
      {"  ratio", HumanRatio(traffic.hbm_ratio())},
      {"standard holds", HumanBytes(traffic.standard_workspace())},
      {"  ratio", HumanRatio(traffic.workspace_ratio())},
  };
}

Block TimeBlock(const v1::Ledger& ledger) {
  const v1::TimeLedger& time = ledger.time();
  return {
      {"queue", HumanMicroseconds(time.queue())},
      {"transfer in", HumanMicroseconds(time.transfer_in())},
      {"compute", HumanMicroseconds(time.compute())},
      {"transfer out", HumanMicroseconds(time.transfer_out())},
      {"total", HumanMicroseconds(time.total())},
      {"", ""},
      {"work", absl::StrCat(HumanCount(static_cast<double>(ledger.flops())), "FLOP")},
      {"speed", absl::StrCat(HumanCount(ledger.achieved_flops_per_s()), "FLOP/s")},
  };
}

}  // namespace

std::string FormatChoice(const v1::Choice& choice, const std::string& indent) {
  std::string text = absl::StrCat(indent, "choice   ", choice.backend(), " on ", choice.device(), ", kernel ",
                                  choice.kernel(), "\n", indent, "         ");
  if (choice.tile_q() > 0) {
    absl::StrAppend(&text, "tile ", choice.tile_q(), " x ", choice.tile_kv(), ", ",
                    Plural(choice.stages(), "stage"), ", ", Plural(choice.num_splits(), "split"), ", ",
                    HumanBytes(choice.fast_memory_bytes()), " of fast memory, ");
  } else {
    absl::StrAppend(&text, "not tiled, ");
  }
  absl::StrAppend(&text, Plural(choice.launches(), "launch"));
  if (choice.batch_requests() > 0) {
    absl::StrAppend(&text, " of ", Plural(choice.batch_requests(), "request"), ", ",
                    Plural(choice.batch_sequences(), "sequence"));
  }
  return text + "\n";
}

std::string FormatLedger(const v1::Ledger& ledger) {
  const Block blocks[] = {MemoryBlock(ledger.memory()), TrafficBlock(ledger.traffic()), TimeBlock(ledger)};
  using Align = TextTable::Align;
  TextTable table({{"memory", Align::kLeft},
                   {"", Align::kRight},
                   {"  traffic, modelled", Align::kLeft},
                   {"", Align::kRight},
                   {"  time", Align::kLeft},
                   {"", Align::kRight}});
  size_t height = 0;
  for (const Block& block : blocks) height = std::max(height, block.size());
  for (size_t i = 0; i < height; ++i) {
    std::vector<std::string> row;
    for (const Block& block : blocks) {
      const bool first = &block == &blocks[0];
      const auto [name, value] = i < block.size() ? block[i] : std::pair<std::string, std::string>();
      row.push_back(first || name.empty() ? name : "  " + name);
      row.push_back(value);
    }
    table.AddRow(std::move(row));
  }
  return FormatChoice(ledger.choice(), "") + "\n" + table.Format();
}

}  // namespace tessera::client
