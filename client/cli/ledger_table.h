// The ledger of one request, for people.
#pragma once

#include <string>

#include "tessera/v1/ledger.pb.h"

namespace tessera::client {

// "cpu_fused on cpu, kernel ..." and the tile line, each behind `indent`.
std::string FormatChoice(const v1::Choice& choice, const std::string& indent);

// The choice, then memory, modelled traffic and time side by side; fits 100 columns.
std::string FormatLedger(const v1::Ledger& ledger);

}  // namespace tessera::client
