// tessera info: GetServerInfo for people.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/cli.h"
#include "client/cli/connection.h"
#include "client/cli/options.h"
#include "client/cli/proto_json.h"
#include "client/cli/table.h"
#include "client/status_macros.h"

namespace tessera::client {
namespace {

using Align = TextTable::Align;

std::string DTypeNames(const google::protobuf::RepeatedField<int>& dtypes) {
  return absl::StrJoin(dtypes, " ", [](std::string* out, int dtype) {
    absl::StrAppend(out, DTypeName(static_cast<DType>(dtype)));
  });
}

std::string FormatBackends(const v1::GetServerInfoResponse& info) {
  TextTable table({{"backend", Align::kLeft},
                   {"device", Align::kLeft},
                   {"auto"},
                   {"inputs", Align::kLeft},
                   {"outputs", Align::kLeft},
                   {"head dim", Align::kLeft}});
  std::string details;
  for (const v1::BackendDescription& backend : info.backends()) {
    if (backend.usable()) {
      const std::string dims =
          backend.head_dim_multiple() > 1
              ? absl::StrCat("to ", backend.max_head_dim(), " by ", backend.head_dim_multiple())
              : absl::StrCat("to ", backend.max_head_dim());
      table.AddRow({backend.name(), backend.device(),
                    backend.auto_priority() < 0 ? "never" : absl::StrCat(backend.auto_priority()),
                    DTypeNames(backend.input_dtypes()), DTypeNames(backend.output_dtypes()), dims});
      const std::string features =
          backend.features().empty() ? "none" : absl::StrJoin(backend.features(), ", ");
      absl::StrAppend(&details, backend.name(), "\n  ", Wrap(backend.description(), 2), "\n  ",
                      Wrap(absl::StrCat("features: ", features), 2), "\n");
    } else {
      absl::StrAppend(&details, backend.name(), "\n  ",
                      Wrap(absl::StrCat("not usable: ", backend.unusable_reason()), 2), "\n");
    }
  }
  return absl::StrCat(table.Format(), "\n", details);
}

std::string FormatDevices(const v1::GetServerInfoResponse& info) {
  TextTable table(
      {{"device", Align::kLeft}, {"units"}, {"memory"}, {"free"}, {"fast memory"}, {"last-level cache"}});
  std::string names;
  for (const v1::DeviceDescription& device : info.devices()) {
    table.AddRow({device.id(), absl::StrCat(device.compute_units()), HumanBytes(device.total_memory_bytes()),
                  HumanBytes(device.free_memory_bytes()), HumanBytes(device.fast_memory_bytes()),
                  HumanBytes(device.l2_bytes())});
    absl::StrAppend(&names, device.id(), "\n  ", Wrap(device.name(), 2), "\n");
  }
  return absl::StrCat(table.Format(), "\n", names);
}

std::string FormatLimits(const v1::Limits& limits) {
  TextTable table({{"limit", Align::kLeft}, {""}});
  table.AddRow({"message", HumanBytes(limits.max_message_bytes())});
  table.AddRow({"tokens of a batch", absl::StrCat(limits.max_batch_tokens())});
  table.AddRow({"workspace", HumanBytes(limits.max_workspace_bytes())});
  table.AddRow({"requests at a time", absl::StrCat(limits.max_concurrent_requests())});
  return table.Format();
}

}  // namespace

absl::StatusOr<ExitCode> RunInfo(const Arguments& arguments, Console& console) {
  bool json = false;
  ConnectionOptions connection;
  OptionTable table("info", "",
                    "Shows the server's version, backends with what they can do, devices and limits.");
  table.Section("Results");
  table.Switch("json", &json, "print the whole reply as JSON");
  connection.Register(table);
  TESSERA_TRY(table.Parse(arguments));
  if (table.help_requested()) {
    console.out << table.Help();
    return ExitCode::kOk;
  }
  TESSERA_TRY_ASSIGN(const std::unique_ptr<Client> client, connection.Connect());
  const absl::StatusOr<v1::GetServerInfoResponse> info = client->GetServerInfo();
  if (!info.ok()) return ServerError(info.status());
  if (json) {
    console.out << DumpJson(ToJson(*info));
  } else {
    console.out << "Tessera " << info->version() << ", commit " << info->commit()
                << (info->draining() ? ", draining" : "") << "\n\n"
                << FormatBackends(*info) << "\n"
                << FormatDevices(*info) << "\n"
                << FormatLimits(info->limits());
  }
  return ExitCode::kOk;
}

}  // namespace tessera::client
