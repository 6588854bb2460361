#!/usr/bin/env bash
# Builds the images with a real Docker engine, runs them and holds them to what README.md says. See --help.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly root=$PWD
readonly base=debian:12-slim
readonly max_bytes_above_base=150000000
readonly name=tessera-test-$$
image=$name:cpu

usage() {
  cat <<END
Usage: deploy/test_image.sh [--jobs=N] [--ccache=FOLDER] [--tarball=FILE] [--cuda=FOLDER]

Builds the CPU image and checks what it holds and how it runs: health, attention through the published port, drain on
SIGTERM, and all of that with a read-only root, no capabilities, a memory limit and no root; then compose, up and down.
Uses the machine's Docker engine. Where none answers, on Debian 12 and as root, it sets one up in a temporary folder
and ends it afterwards.

  --jobs=N          compile with N jobs; default: one per core ($(nproc))
  --ccache=FOLDER   start from what this compiler cache has; it is only read
  --tarball=FILE    compile nothing: take the programs from this release tarball, made on Debian 12
  --cuda=FOLDER     build the GPU image too, on the base with this CUDA toolkit (/usr/local/cuda) in it where NVIDIA's
                    image would be, and run it without a GPU: how it says so, and serves on the CPU
END
}

jobs=$(nproc)
contexts=()
tarball=""
cuda=""
for argument in "$@"; do
  case $argument in
    --jobs=*) jobs=${argument#--jobs=} ;;
    --ccache=*) contexts+=(--build-context "ccache=$(realpath --canonicalize-existing "${argument#--ccache=}")") ;;
    --tarball=*) tarball=$(realpath --canonicalize-existing "${argument#--tarball=}") ;;
    --cuda=*) cuda=$(realpath --canonicalize-existing "${argument#--cuda=}") ;;
    -h | --help) usage; exit 0 ;;
    *) echo "test_image: unknown argument: $argument" >&2; usage >&2; exit 2 ;;
  esac
done

section() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }
fail() { echo "test_image: $*" >&2; exit 1; }
pass() { echo "ok: $*"; }

# shellcheck source=deploy/docker_engine.sh
source deploy/docker_engine.sh

work=$(mktemp -d /tmp/tessera-image.XXXXXX)
compose=(docker compose --project-name "$name" --file "$root/deploy/compose.yaml")
build_pid=""
clean_up() {
  local status=$?
  trap '' INT TERM  # a second Ctrl-C does not stop the cleaning
  if ((status != 0)) && [[ -s $work/last.log ]]; then tail --lines=40 "$work/last.log" >&2; fi
  if [[ -n $build_pid ]]; then kill "$build_pid" 2>/dev/null || true; fi
  if docker info >/dev/null 2>&1; then
    "${compose[@]}" --profile '*' down --volumes --timeout=1 >/dev/null 2>&1 || true
    docker rm --force "$name" >/dev/null 2>&1 || true
    docker image rm --force "$name:cpu" "$name:gpu" "$name:cuda-base" >/dev/null 2>&1 || true
  fi
  stop_engine
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# docker_build ARGUMENT...
docker_build() {
  # In the background: bash heeds a signal while it waits, and not while a command runs.
  docker build --progress=plain "$@" >"$work/last.log" 2>&1 &
  build_pid=$!
  wait "$build_pid" || fail "the image does not build"
  build_pid=""
}

# build_image ARGUMENT...: $image
build_image() {
  TESSERA_COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown)
  docker_build --file deploy/Dockerfile --tag "$image" --build-arg "JOBS=$jobs" \
    --build-arg "TESSERA_COMMIT=$TESSERA_COMMIT" "${contexts[@]}" "$@" .
}

use_tarball() {
  mkdir -p "$work/made/release"
  cp "$tarball" "$work/made/release/tessera-given.tar.gz"
  contexts+=(--build-context "build=$work/made")
}

# $name:cuda-base: the base, and the toolkit where NVIDIA's image has it.
build_cuda_base() {
  mkdir "$work/cuda"
  # shellcheck disable=SC2016
  printf 'FROM %s\nCOPY --from=cuda . /usr/local/cuda/\nENV PATH=/usr/local/cuda/bin:$PATH\n' "$base" \
    >"$work/cuda/Dockerfile"
  docker_build --tag "$name:cuda-base" --build-context "cuda=$cuda" "$work/cuda"
}

# in_image COMMAND...: in the image, without its server.
in_image() { docker run --rm --network=none --entrypoint="$1" "$image" "${@:2}"; }

image_bytes() { docker image inspect --format '{{.Size}}' "$1"; }

check_contents() {
  local bytes version tool history
  bytes=$(($(image_bytes "$image") - $(image_bytes "$base")))
  ((bytes < max_bytes_above_base)) || fail "the image is $bytes bytes above its base, $max_bytes_above_base are allowed"
  pass "$((bytes / 1000000)) MB above its base"
  version=$(in_image tessera-server --version)
  [[ -n $tarball || $version == *"$TESSERA_COMMIT"* ]] ||
    fail "--version says '$version', which does not name $TESSERA_COMMIT"
  pass "$version"
  # Whatever the base has (perl, in Debian's), nothing that builds.
  for tool in cc c++ gcc g++ ld as make cmake ninja ccache git protoc nvcc; do
    ! in_image sh -c "command -v $tool" || fail "the image has $tool"
  done
  history=$(docker history --no-trunc --format '{{.CreatedBy}}' "$image")
  ! grep --extended-regexp 'apt-get|install_dependencies|cmake|ccache' <<<"$history" ||
    fail "its history has build steps"
  pass "no build tools, no build steps"
  in_image sh -c 'test -s /opt/tessera/share/doc/tessera/LICENSE && ls /opt/tessera/share/doc/tessera/licenses' \
    >"$work/licences" || fail "the image has no licences"
  pass "$(wc --lines <"$work/licences") files of licences"
}

# The command line of the image, run on this machine as a user of the server would.
unpack_client() {
  local container
  container=$(docker create "$image")
  docker cp --quiet "$container:/opt/tessera" "$work/client"
  docker rm "$container" >/dev/null
}

run_server() {
  docker run --detach --name "$name" --publish=127.0.0.1::50051 --publish=127.0.0.1::9464 --health-interval=1s \
    --read-only --cap-drop=ALL --security-opt=no-new-privileges --memory=1g --pids-limit=512 \
    "$image" "$@" >/dev/null
  wait_healthy
  TESSERA_SERVER=$(docker port "$name" 50051/tcp)
  export TESSERA_SERVER
}

wait_healthy() {
  local state deadline=$((SECONDS + 60))
  until [[ ${state:-} == healthy ]]; do
    ((SECONDS < deadline)) || { docker logs "$name" >&2; fail "after 60 s Docker's health check says '${state:-}'"; }
    [[ $(docker inspect --format '{{.State.Running}}' "$name") == true ]] ||
      { docker logs "$name" >&2; fail "the server ended"; }
    sleep 0.5
    state=$(docker inspect --format '{{.State.Health.Status}}' "$name")
  done
}

check_probe() {
  [[ $("$work/client/bin/tessera" health) == SERVING ]] || fail "not SERVING through the published port"
  local status=0
  in_image tessera health --timeout=1 >/dev/null 2>&1 || status=$?
  [[ $status -eq 3 ]] || fail "without a server the probe ends with $status, not 3"
  pass "health: Docker's check and a client through $TESSERA_SERVER; the probe fails where there is no server"
}

check_confinement() {
  docker exec "$name" cat /proc/1/status >"$work/status"
  # Real, effective, saved and file-system user; effective and bounding capabilities.
  awk '/^Uid:/ {for (i = 2; i <= 5; ++i) if ($i == 0) exit 1}' "$work/status" || fail "the server runs as root"
  [[ $(awk '/^Cap(Eff|Prm|Bnd):/ {print $2}' "$work/status" | tr --delete '0\n') == "" ]] ||
    fail "the server has capabilities: $(grep '^Cap' "$work/status")"
  [[ $(awk '/^NoNewPrivs:/ {print $2}' "$work/status") == 1 ]] || fail "the server may gain privileges"
  ! docker exec "$name" sh -c 'echo > /opt/tessera/x || echo > /tmp/x' 2>/dev/null || fail "its root can be written to"
  [[ -z $(docker diff "$name") ]] || fail "it has written to its root: $(docker diff "$name")"
  local limit
  # Where the second version of cgroups has it, or the first.
  limit=$(docker exec "$name" sh -c 'cd /sys/fs/cgroup && cat memory.max || cat memory/memory.limit_in_bytes' \
    2>/dev/null || true)
  [[ $limit == $((1 << 30)) ]] || fail "its memory limit is '$limit', not 1 GiB"
  pass "not root, no capabilities, read-only root, 1 GiB of memory"
}

# make_batch Q_LENS KV_LENS: what attend sends from now on
make_batch() {
  lens=("--q-lens=$1" "--kv-lens=$2")
  python3 deploy/quickstart_batch.py make "$work/batch.safetensors" "$1" "$2" >/dev/null
}

# attend BACKEND OUT_DTYPE NAME: writes NAME.safetensors and, with what the server says, NAME.json
attend() {
  "$work/client/bin/tessera" attend --input="$work/batch.safetensors" "${lens[@]}" --causal --lse --backend="$1" \
    --out-dtype="$2" --out="$work/$3.safetensors" --stats=json >"$work/$3.json"
}

check_attention() {
  make_batch 70,1,300 70,500,900
  attend auto bf16 fused
  attend cpu_standard fp32 oracle
  python3 deploy/quickstart_batch.py compare "$work/fused.safetensors" "$work/oracle.safetensors"
  python3 - "$work/fused.json" <<'END' || fail "the reply's ledger is wrong: $(<"$work/fused.json")"
import json, sys
ledger = json.load(open(sys.argv[1]))["ledger"]
input_bytes = 2 * 128 * (16 * (70 + 1 + 300) + 2 * 4 * (70 + 500 + 900))  # bf16; 16 query heads, 4 of k and of v
sys.exit(ledger["choice"]["backend"] != "cpu_fused" or ledger["memory"]["input"] != input_bytes
         or ledger["time"]["compute"] <= 0)
END
  pass "attention through the published port, verified, with its ledger"
}

# metric REGEX: the value of the first series whose name and labels match
metric() {
  python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())' \
    "http://$(docker port "$name" 9464/tcp)/metrics" | awk -v regex="^$1" '$0 ~ regex && !seen++ {print $NF}'
}

check_metrics() {
  [[ $(metric 'tessera_requests_total{.*backend="cpu_fused",code="OK"') == 1 ]] ||
    fail "the metrics do not show the request that was served"
  pass "metrics through the published port"
}

# A request in flight when SIGTERM comes completes; the server then ends with status 0. The oracle takes
# seconds over this one.
check_drain() {
  make_batch 5000 5000
  attend cpu_standard fp32 draining &
  local client=$!
  until [[ $(metric tessera_requests_in_flight) == 1 ]]; do
    kill -0 "$client" 2>/dev/null || fail "the request to drain never was in flight"
  done
  docker kill --signal=TERM "$name" >/dev/null
  sleep 0.2
  kill -0 "$client" 2>/dev/null || fail "the request to drain was over before SIGTERM came: it must be a larger one"
  docker wait "$name" >/dev/null
  wait "$client" || fail "a request in flight was lost at SIGTERM"
  check_exit_status
}

check_exit_status() {
  local state
  state=$(docker inspect --format '{{.State.ExitCode}} {{.State.OOMKilled}}' "$name")
  if [[ $state != "0 false" ]]; then
    docker logs --tail=20 "$name" >&2
    fail "exit status, killed for memory: $state, not 0 false"
  fi
  pass "SIGTERM: drained, exit status 0"
  docker rm "$name" >/dev/null
}

# The server of the GPU image, where there is no GPU: it has the CUDA backends, says why it does not use them, and takes
# the CPU; asked for a GPU, it ends.
check_gpu_image() {
  local log status=0
  docker logs "$name" >"$work/log" 2>&1
  log=$(grep 'event=cpu_fallback' "$work/log") || fail "it does not say that it falls back: $(<"$work/log")"
  [[ $log != *"this build has no CUDA"* ]] || fail "it was built without CUDA: $log"
  pass "$log"
  attend auto bf16 on_cpu
  grep --quiet '"backend": *"cpu_fused"' "$work/on_cpu.json" || fail "not on the CPU: $(<"$work/on_cpu.json")"
  docker stop "$name" >/dev/null
  check_exit_status
  log=$(docker run --rm --network=none "$image" --cuda-device=0 2>&1) || status=$?
  [[ $status -eq 1 && $log == *NVIDIA* ]] || fail "asked for a GPU, it ends with $status: $log"
  pass "asked for a GPU, it ends with $status: $log"
}

check_compose() {
  export TESSERA_IMAGE=$image TESSERA_PORT=0 TESSERA_MEMORY=1g TESSERA_FLAGS=--threads=1
  "${compose[@]}" --profile '*' config --quiet
  "${compose[@]}" --file deploy/compose.gpu.yaml --profile '*' config --quiet
  "${compose[@]}" up --detach --no-build --wait >"$work/last.log" 2>&1
  TESSERA_SERVER=$("${compose[@]}" port server 50051)
  "$work/client/bin/tessera" health >/dev/null
  attend cpu_fused bf16 composed
  # In the project's network, as `compose run` does it; the totals are the server's own.
  "${compose[@]}" run --rm load --concurrency=2 --duration=1 --metrics=server:9464 >"$work/last.log" 2>&1 ||
    fail "the load client of the project: exit status $?"
  "${compose[@]}" stop >>"$work/last.log" 2>&1
  local status
  status=$("${compose[@]}" ps --all --format '{{.ExitCode}}' server)
  [[ $status == 0 ]] || fail "compose stop: exit status $status"
  "${compose[@]}" --profile '*' down --volumes >>"$work/last.log" 2>&1
  [[ -z $(docker ps --all --quiet --filter "label=com.docker.compose.project=$name") ]] ||
    fail "compose down left containers"
  pass "compose: up, attention, a load test, stop with status 0, down"
}

section "Engine"
start_engine "$work" "$base"
docker version --format 'Docker {{.Server.Version}}'
section "Build"
[[ -z $tarball ]] || use_tarball
build_image
section "Contents"
check_contents
section "Run"
unpack_client
run_server --threads=2
check_probe
check_attention
check_metrics
check_confinement
check_drain
section "Compose"
check_compose
if [[ -n $cuda ]]; then
  section "GPU image"
  image=$name:gpu
  build_cuda_base
  build_image --build-arg "BUILD_BASE=$name:cuda-base"
  check_contents
  run_server --threads=2
  check_probe
  check_gpu_image
fi
printf '\nAll is well (%d s).\n' "$SECONDS"
