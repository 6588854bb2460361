#!/usr/bin/env bash
# From a fresh checkout to a verified result: installs, builds, serves, computes, checks, measures, stops. See --help.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD
readonly bin=$root/build/release
readonly server=$bin/server/tessera-server
readonly cli=$bin/client/tessera

usage() {
  cat <<END
Usage: deploy/quickstart.sh [--jobs=N]

Installs the dependencies, builds the server and its command line, starts the server on a free loopback port, computes
attention over a realistic batch (four sequences of different lengths, 16 query and 4 key heads, causal, bf16), checks
the result against the float64 oracle, verifies random problems, prints the fused-vs-standard table, and stops the
server. Exits non-zero if anything is off.

  --jobs=N   compile with N jobs; default: one per core ($(nproc))
END
}

jobs=$(nproc)
for argument in "$@"; do
  case $argument in
    --jobs=*) jobs=${argument#--jobs=} ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument: $argument" >&2; usage >&2; exit 2 ;;
  esac
done

section() { printf '\n== %s\n' "$1"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

build() {
  export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=true
  mkdir -p "$root/build"
  local log=$root/build/release-configure.log
  cmake --preset release >"$log" 2>&1 || { cat "$log" >&2; fail "CMake failed"; }
  grep "Tessera:" "$log" | sed 's/^-- //'
  cmake --build --preset release --parallel "$jobs" --target tessera-server tessera
}

server_pid=""
work=$(mktemp -d)
clean_up() {
  if [[ -n $server_pid ]]; then kill -KILL "$server_pid" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap clean_up EXIT

# Sets TESSERA_SERVER, where the command line looks for its server.
start_server() {
  "$server" --listen=127.0.0.1:0 >"$work/server.out" 2>"$work/server.log" &
  server_pid=$!
  local deadline=$((SECONDS + 30))
  until grep --quiet '^listening on ' "$work/server.out"; do
    kill -0 "$server_pid" 2>/dev/null || { cat "$work/server.log" >&2; fail "the server ended before it listened"; }
    ((SECONDS < deadline)) || fail "the server does not listen after 30 s"
    sleep 0.05
  done
  TESSERA_SERVER=$(sed -n 's/^listening on \([^ ]*\).*/\1/p;T;q' "$work/server.out")
  export TESSERA_SERVER
  echo "tessera-server $server_pid listens on $TESSERA_SERVER"
}

stop_server() {
  local pid=$server_pid status=0
  kill -TERM "$pid"
  wait "$pid" || status=$?
  server_pid=""
  [[ $status -eq 0 ]] || { cat "$work/server.log" >&2; fail "the server ended with status $status"; }
  echo "tessera-server $pid drained and ended with status 0"
}

# attend BACKEND OUT_DTYPE OUT_FILE [OPTION...]
attend() {
  "$cli" attend --input="$work/batch.safetensors" --q-lens="$q_lens" --kv-lens="$kv_lens" --causal --lse \
    --backend="$1" --out-dtype="$2" --out="$3" "${@:4}"
}

section "Dependencies"
deploy/install_dependencies.sh

section "Build"
build

section "Server"
start_server
"$cli" health
"$cli" info

# A prompt, a prompt behind a cached prefix, a short one, and one decode step.
readonly q_lens=700,200,33,1 kv_lens=700,900,33,1500
section "Attention: 4 sequences, queries $q_lens, keys $kv_lens, 16 query heads, 4 key heads, head_dim 128, causal, bf16"
python3 deploy/quickstart_batch.py make "$work/batch.safetensors" "$q_lens" "$kv_lens"
attend auto bf16 "$work/fused.safetensors" --stats=table
attend cpu_standard fp32 "$work/oracle.safetensors" --stats=none

section "Against the float64 oracle"
python3 deploy/quickstart_batch.py compare "$work/fused.safetensors" "$work/oracle.safetensors"

section "Random problems against the float64 oracle"
"$cli" verify

section "Fused and standard attention"
"$cli" bench compare --n=1024,2048,4096,8192

section "Stop"
stop_server
echo
echo "All is well."
