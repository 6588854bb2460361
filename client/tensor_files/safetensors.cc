#include "client/tensor_files/safetensors.h"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "client/tensor_files/byte_reader.h"

namespace tessera::client {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr size_t kMaxRank = 64;

absl::Status Malformed(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("not a valid .safetensors file: ", what));
}

// Bits of one element of each type of the format that has whole bytes; 0 for names we do not know.
int64_t SizeOf(const std::string& name) {
  static const std::map<std::string, int64_t> kSizes = {
      {"F64", 8},     {"I64", 8}, {"U64", 8},  {"F32", 4},  {"I32", 4},
      {"U32", 4},     {"F16", 2}, {"BF16", 2}, {"I16", 2},  {"U16", 2},
      {"F8_E4M3", 1}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}, {"F8_E5M2", 1},
  };
  const auto found = kSizes.find(name);
  return found == kSizes.end() ? 0 : found->second;
}

Element ElementOf(const std::string& name) {
  static const std::map<std::string, Element> kElements = {
      {"F64", Element::kFp64},        {"F32", Element::kFp32},   {"F16", Element::kFp16},
      {"BF16", Element::kBf16},       {"U16", Element::kUint16}, {"U8", Element::kUint8},
      {"F8_E4M3", Element::kFp8E4M3}, {"BOOL", Element::kBool},
  };
  const auto found = kElements.find(name);
  return found == kElements.end() ? Element::kUnsupported : found->second;
}

const char* NameOf(DType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FP32:
      return "F32";
    case v1::DATA_TYPE_FP16:
      return "F16";
    case v1::DATA_TYPE_BF16:
      return "BF16";
    case v1::DATA_TYPE_BOOL:
      return "BOOL";
    default:
      return "F8_E4M3";
  }
}

absl::StatusOr<Json> ParseHeader(std::string_view text) {
  // The library keeps the last of two equal keys; the format forbids them.
  std::set<std::string> names;
  std::string repeated;
  const auto watch_keys = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1 && !names.insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  Json header = Json::parse(text, watch_keys, /*allow_exceptions=*/false);
  if (header.is_discarded()) return Malformed("its header is not JSON");
  if (!header.is_object()) return Malformed("its header is not a JSON object");
  if (!repeated.empty()) return Malformed(absl::StrCat("tensor '", repeated, "' is there twice"));
  return header;
}

std::optional<std::vector<int64_t>> Lengths(const Json& entry, const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array() || found->size() > kMaxRank) return std::nullopt;
  std::vector<int64_t> values;
  for (const Json& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
      return std::nullopt;
    values.push_back(value.get<int64_t>());
  }
  return values;
}

struct Placed {
  std::string name;
  StoredTensor tensor;
  int64_t begin, end;
};

absl::StatusOr<Placed> ParseEntry(const std::string& name, const Json& entry, int64_t data_size) {
  const std::string what = absl::StrCat("tensor '", name, "'");
  if (!entry.is_object()) return Malformed(absl::StrCat(what, " is not described by an object"));
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return Malformed(absl::StrCat(what, " has no dtype"));
  auto shape = Lengths(entry, "shape");
  if (!shape) return Malformed(absl::StrCat(what, " has no shape of non-negative integers"));
  const auto offsets = Lengths(entry, "data_offsets");
  if (!offsets || offsets->size() != 2)
    return Malformed(absl::StrCat(what, " has no data_offsets [begin, end]"));

  Placed placed{name, {}, (*offsets)[0], (*offsets)[1]};
  placed.tensor.element_name = dtype->get<std::string>();
  placed.tensor.element = ElementOf(placed.tensor.element_name);
  if (placed.begin > placed.end || placed.end > data_size) {
    return Malformed(absl::StrCat(what, " lies at [", placed.begin, ", ", placed.end, ") of ", data_size,
                                  " bytes of data"));
  }
  const int64_t size = SizeOf(placed.tensor.element_name);
  const auto count = NumElements(*shape);
  const int64_t bytes = placed.end - placed.begin;
  if (!count || (size > 0 && (*count > bytes / size || *count * size != bytes))) {
    return Malformed(absl::StrCat(what, ": expected data_offsets that span ", placed.tensor.element_name, " ",
                                  ShapeString(*shape), " of ", size, " bytes each, got ", bytes, " bytes"));
  }
  placed.tensor.shape = std::move(*shape);
  return placed;
}

}  // namespace

absl::StatusOr<StoredTensors> ParseSafetensors(std::string_view file) {
  const ByteReader reader(file);
  const auto header_size = reader.Read<uint64_t>(0);
  if (!header_size) return Malformed(absl::StrCat("it has ", file.size(), " bytes"));
  if (*header_size > kMaxHeaderBytes) {
    return Malformed(
        absl::StrCat("header of ", *header_size, " bytes, at most ", kMaxHeaderBytes, " are accepted"));
  }
  const auto header_text = reader.Slice(kLengthBytes, *header_size);
  if (!header_text) {
    return Malformed(absl::StrCat("header of ", *header_size, " bytes in a file of ", file.size()));
  }
  TESSERA_TRY_ASSIGN(const Json header, ParseHeader(*header_text));

  const std::string_view data = file.substr(kLengthBytes + *header_size);
  std::vector<Placed> entries;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    TESSERA_TRY_ASSIGN(Placed placed, ParseEntry(name, entry, static_cast<int64_t>(data.size())));
    entries.push_back(std::move(placed));
  }
  std::sort(entries.begin(), entries.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });

  StoredTensors tensors;
  int64_t covered = 0;
  for (Placed& entry : entries) {
    if (entry.begin != covered) {
      return Malformed(absl::StrCat("tensor '", entry.name, "' begins at byte ", entry.begin,
                                    ", the one before it ", "ends at ", covered,
                                    entry.begin < covered ? ": they overlap" : ": a gap"));
    }
    covered = entry.end;
    entry.tensor.bytes = std::string(data.substr(entry.begin, entry.end - entry.begin));
    tensors.emplace(std::move(entry.name), std::move(entry.tensor));
  }
  if (covered != static_cast<int64_t>(data.size())) {
    return Malformed(
        absl::StrCat(static_cast<int64_t>(data.size()) - covered, " bytes after the last tensor"));
  }
  return tensors;
}

std::string FormatSafetensors(const std::map<std::string, TensorView>& tensors) {
  Json header = Json::object();
  size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", NameOf(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  while (text.size() % 8 != 0) text.push_back(' ');  // aligns the data

  std::string file;
  file.reserve(kLengthBytes + text.size() + offset);
  for (size_t i = 0; i < kLengthBytes; ++i)
    file.push_back(static_cast<char>((text.size() >> (8 * i)) & 0xff));
  file += text;
  for (const auto& [name, tensor] : tensors) {
    file.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return file;
}

}  // namespace tessera::client
