// Which commit a benchmark was built from.
#pragma once

#include <string>

namespace tessera::benchmark {

// `git describe --always --dirty` of the build, or TESSERA_COMMIT of the environment where that is set, as
// where sources without their history were built; "unknown" without either.
std::string Commit();

}  // namespace tessera::benchmark
