#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests; ends with "N passed, N failed, N skipped". See --help.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
readonly root=$PWD
readonly venv=$root/build/python-venv

usage() {
  cat <<END
Usage: tests/run.sh [--only=STAGE]... [--tsan] [--jobs=N]

Without --only, runs these stages:
  dev      optimised build with assertions, all C++ tests          (build/dev)
  asan     AddressSanitizer and UndefinedBehaviorSanitizer, again  (build/asan)
  python   the Python client against a real server, and its types  (build/python-venv)

  --only=STAGE   run this stage alone; may be repeated: dev, asan, python, tsan
  --tsan         also run the tests under ThreadSanitizer          (build/tsan)
  --jobs=N       compile with N jobs; default: one per core ($(nproc))
END
}

fail_usage() {
  echo "tests/run.sh: $1" >&2
  usage >&2
  exit 2
}

stages=()
with_tsan=false
jobs=$(nproc)
for argument in "$@"; do
  case $argument in
    --only=dev | --only=asan | --only=python | --only=tsan) stages+=("${argument#--only=}") ;;
    --tsan) with_tsan=true ;;
    --jobs=*) jobs=${argument#--jobs=} ;;
    -h | --help) usage; exit 0 ;;
    *) fail_usage "unknown argument: $argument" ;;
  esac
done
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail_usage "--jobs: expected a positive number, got '$jobs'"
[[ ${#stages[@]} -gt 0 ]] || stages=(dev asan python)
if $with_tsan; then stages+=(tsan); fi

# Results are found again by ccache in another checkout of the same sources.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=true

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  section "Build: $preset"
  cmake --preset "$preset" >"$root/build/$preset-configure.log" 2>&1 ||
    { cat "$root/build/$preset-configure.log"; return 1; }
  grep "Tessera:" "$root/build/$preset-configure.log" | sed 's/^-- //'
  cmake --build --preset "$preset" --parallel "$jobs" ${1:+--target "$@"}
}

# run_ctest PRESET: GoogleTest programs also say what each of their cases did, which summarize_results.py counts.
run_ctest() {
  section "Test: $1"
  local results=$root/build/results/$1
  mkdir -p "$results"
  GTEST_OUTPUT="xml:$results/" ctest --preset "$1" --parallel 2 --no-tests=error --output-junit "$results/ctest.xml"
}

# The virtual environment is made anew when what it was made from has changed.
prepare_venv() {
  local stamp=$venv/stamp want
  want=$({ python3 --version; cat client/python/pyproject.toml client/python/setup.py proto/tessera/v1/*.proto; } | sha256sum)
  if [[ -f $stamp && $(<"$stamp") == "$want" && -d client/python/tessera_client/_proto ]]; then return; fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "The Python client needs Python 3.11 or later; python3 is $(python3 --version)."; return 1; }
  rm -rf "$venv"
  python3 -m venv "$venv" &&
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable 'client/python[test]' &&
    echo "$want" >"$stamp"
}

run_python() {
  build dev tessera-server || return 1
  section "Test: python"
  prepare_venv || return 1
  local results=$root/build/results/python status=0
  mkdir -p "$results"
  (cd client/python && "$venv/bin/mypy") || status=1
  (cd client/python && TESSERA_SERVER_BINARY=$root/build/dev/server/tessera-server \
    "$venv/bin/python" -m pytest --quiet --junitxml="$results/pytest.xml") || status=1
  return $status
}

run_stage() {
  case $1 in
    python) run_python ;;
    *) build "$1" && run_ctest "$1" ;;
  esac
}

section "Dependencies"
deploy/install_dependencies.sh || exit 1
rm -rf build/results
mkdir -p build/results

broken=()
for stage in "${stages[@]}"; do
  run_stage "$stage" </dev/null || broken+=("$stage")
done

section "Result"
if [[ ${#broken[@]} -gt 0 ]]; then echo "Failed: ${broken[*]}"; fi
python3 tests/summarize_results.py build/results "${broken[@]}" || exit 1
