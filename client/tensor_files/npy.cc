#include "client/tensor_files/npy.h"

#include <charconv>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/status_macros.h"
#include "client/tensor_files/byte_reader.h"

namespace tessera::client {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
// NumPy itself refuses longer headers by default.
constexpr uint64_t kMaxHeaderBytes = 10'000;

absl::Status Malformed(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("not a valid .npy file: ", what));
}

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

// Reads the one Python literal a header is: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : rest_(text) {}

  absl::StatusOr<Header> Parse() {
    Header header;
    bool descr = false, order = false, shape = false;
    if (!Take('{')) return Malformed("its header does not begin with '{'");
    while (!Take('}')) {
      TESSERA_TRY_ASSIGN(const std::string key, ParseString());
      if (!Take(':')) return Malformed(absl::StrCat("no ':' after '", key, "' in its header"));
      if (key == "descr" && !std::exchange(descr, true)) {
        if (Peek() == '[') return Malformed("its element type is a record; save one plain array per file");
        TESSERA_TRY_ASSIGN(header.descr, ParseString());
      } else if (key == "fortran_order" && !std::exchange(order, true)) {
        TESSERA_TRY_ASSIGN(header.fortran_order, ParseBool());
      } else if (key == "shape" && !std::exchange(shape, true)) {
        TESSERA_TRY_ASSIGN(header.shape, ParseShape());
      } else {
        return Malformed(absl::StrCat("unexpected or repeated key '", key, "' in its header"));
      }
      if (!Take(',') && Peek() != '}') return Malformed("its header dictionary is not closed");
    }
    if (Peek() != '\0') return Malformed("text after its header dictionary");
    if (!descr || !order || !shape) return Malformed("its header lacks descr, fortran_order or shape");
    return header;
  }

 private:
  // The next character that is not white space; '\0' at the end.
  char Peek() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\n' || rest_[0] == '\t'))
      rest_.remove_prefix(1);
    return rest_.empty() ? '\0' : rest_[0];
  }
  bool Take(char c) {
    if (Peek() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  absl::StatusOr<std::string> ParseString() {
    const char quote = Peek();
    const size_t end = quote == '\'' || quote == '"' ? rest_.find(quote, 1) : std::string_view::npos;
    if (end == std::string_view::npos) return Malformed("a quoted string is missing in its header");
    std::string value(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    return value;
  }

  absl::StatusOr<bool> ParseBool() {
    Peek();
    for (const auto& [word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (rest_.substr(0, word.size()) != word) continue;
      rest_.remove_prefix(word.size());
      return value;
    }
    return Malformed("fortran_order is neither True nor False");
  }

  absl::StatusOr<std::vector<int64_t>> ParseShape() {
    if (!Take('(')) return Malformed("shape is not a tuple");
    std::vector<int64_t> shape;
    while (!Take(')')) {
      Peek();
      int64_t extent = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), extent);
      if (error != std::errc() || extent < 0) return Malformed("shape holds something that is not a length");
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
      shape.push_back(extent);
      if (!Take(',') && Peek() != ')') return Malformed("shape is not closed");
    }
    return shape;
  }

  std::string_view rest_;
};

absl::StatusOr<Element> ElementOf(const std::string& descr) {
  if (descr == "bfloat16") return Element::kBf16;
  if (descr.size() < 2) return Malformed(absl::StrCat("element type '", descr, "'"));
  if (descr[0] == '>') {
    return absl::InvalidArgumentError(absl::StrCat(
        "element type '", descr, "' is big-endian; save array.astype(array.dtype.newbyteorder('<'))"));
  }
  const std::string type = descr.substr(descr[0] == '<' || descr[0] == '|' || descr[0] == '=' ? 1 : 0);
  static const std::map<std::string, Element> kElements = {
      {"f8", Element::kFp64},   {"f4", Element::kFp32},  {"f2", Element::kFp16}, {"V2", Element::kBf16},
      {"u2", Element::kUint16}, {"u1", Element::kUint8}, {"b1", Element::kBool}, {"V1", Element::kFp8E4M3},
  };
  const auto found = kElements.find(type);
  return found == kElements.end() ? Element::kUnsupported : found->second;
}

struct HeaderExtent {
  uint64_t offset, size;
};

absl::StatusOr<HeaderExtent> FindHeader(std::string_view file) {
  const ByteReader reader(file);
  if (reader.Slice(0, kMagic.size()) != kMagic) return Malformed("it does not begin with \\x93NUMPY");
  const auto major = reader.Read<uint8_t>(6);
  if (!major) return Malformed("it ends inside its header");
  if (*major < 1 || *major > 3)
    return Malformed(absl::StrCat("format version ", int{*major}, ", known are 1 to 3"));
  HeaderExtent extent{*major == 1 ? 10u : 12u, 0};
  if (*major == 1) {
    const auto size = reader.Read<uint16_t>(8);
    if (!size) return Malformed("it ends inside its header");
    extent.size = *size;
  } else {
    const auto size = reader.Read<uint32_t>(8);
    if (!size) return Malformed("it ends inside its header");
    extent.size = *size;
  }
  if (extent.size > kMaxHeaderBytes) {
    return Malformed(
        absl::StrCat("header of ", extent.size, " bytes, at most ", kMaxHeaderBytes, " are accepted"));
  }
  if (!reader.Slice(extent.offset, extent.size)) return Malformed("it ends inside its header");
  return extent;
}

const char* DescrOf(DType dtype) {
  switch (dtype) {
    case v1::DATA_TYPE_FP32:
      return "<f4";
    case v1::DATA_TYPE_FP16:
      return "<f2";
    case v1::DATA_TYPE_BF16:
      return "<V2";
    case v1::DATA_TYPE_BOOL:
      return "|b1";
    default:
      return "|V1";
  }
}

}  // namespace

absl::StatusOr<StoredTensor> ParseNpy(std::string_view file) {
  TESSERA_TRY_ASSIGN(const HeaderExtent extent, FindHeader(file));
  auto parsed = HeaderParser(file.substr(extent.offset, extent.size)).Parse();
  if (!parsed.ok()) return std::move(parsed).status();
  Header& header = *parsed;
  TESSERA_TRY_ASSIGN(const Element element, ElementOf(header.descr));
  if (header.fortran_order) {
    return absl::InvalidArgumentError("the array is in Fortran order; save numpy.ascontiguousarray(array)");
  }
  const std::string_view data = file.substr(extent.offset + extent.size);
  const std::optional<int64_t> count = NumElements(header.shape);
  if (!count) return Malformed(absl::StrCat("shape ", ShapeString(header.shape), " overflows"));
  const int64_t size = ElementSize(element);
  if (size > 0 && (*count > static_cast<int64_t>(data.size()) / size ||
                   *count * size != static_cast<int64_t>(data.size()))) {
    return Malformed(absl::StrCat("shape ", ShapeString(header.shape), " of '", header.descr, "': expected ",
                                  *count, " elements of ", size, " bytes after the header, got ", data.size(),
                                  " bytes"));
  }
  return StoredTensor{element, std::move(header.descr), std::move(header.shape), std::string(data)};
}

std::string FormatNpy(const TensorView& tensor) {
  std::string shape = "(";
  for (int64_t extent : tensor.shape) absl::StrAppend(&shape, extent, ", ");
  if (tensor.shape.size() > 1) shape.resize(shape.size() - 2);
  if (tensor.shape.size() == 1) shape.pop_back();
  std::string header = absl::StrCat("{'descr': '", DescrOf(tensor.dtype),
                                    "', 'fortran_order': False, 'shape': ", shape, "), }");
  // The data begins at a multiple of 64 bytes, behind spaces and a newline.
  while ((10 + header.size() + 1) % 64 != 0) header.push_back(' ');
  header.push_back('\n');

  std::string file(kMagic);
  file.append(
      {'\x01', '\x00', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)});
  file += header;
  file.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  return file;
}

}  // namespace tessera::client
