#include "client/load/report.h"

namespace tessera::load {

std::string FormatHtml(const LoadReport& report) { return FormatText(report); }

}  // namespace tessera::load
