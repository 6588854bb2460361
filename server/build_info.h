// Which Tessera this is.
#pragma once

#include <string>

namespace tessera {

std::string Version();    // "0.1.0"
std::string GitCommit();  // `git describe --always --dirty` when it was built; "unknown" outside a checkout

}  // namespace tessera
