#!/usr/bin/env bash
# Installs what building, testing and running Tessera needs, from the packages of Debian 12 or Ubuntu 24.04.
# Quick when nothing is missing: then apt is not called. Runs as root, or uses sudo.
set -euo pipefail

readonly build_packages=(
  # Tools
  build-essential cmake ninja-build ccache git
  # Server and client
  libabsl-dev libprotobuf-dev protobuf-compiler libgrpc++-dev protobuf-compiler-grpc libspdlog-dev
  nlohmann-json3-dev zlib1g-dev prometheus-cpp-dev
  # The BLAS that the cpu_unfused baseline opens at run time
  libopenblas0-pthread
)
readonly test_packages=(
  # Tests and benchmarks
  libgtest-dev libgmock-dev libbenchmark-dev prometheus
  # Python client
  python3 python3-venv
)

usage() {
  cat <<END
Usage: deploy/install_dependencies.sh [--build-only] [--list]

Installs the packages that building, testing and running Tessera needs (Debian 12, Ubuntu 24.04).
  --build-only   without those that only tests, benchmarks and the Python client need
  --list         print their names and install nothing
END
}

fail() {
  echo "install_dependencies: $*" >&2
  exit 1
}

check_distribution() {
  local name="unknown" id="" version=""
  if [[ -r /etc/os-release ]]; then
    # shellcheck source=/dev/null
    { read -r id; read -r version; read -r name; } < <(
      . /etc/os-release; printf '%s\n' "${ID:-}" "${VERSION_ID:-}" "${PRETTY_NAME:-unknown}")
  fi
  case "$id $version" in
    "debian 12" | "ubuntu 24.04") return ;;
  esac
  if ! command -v apt-get >/dev/null; then
    fail "this is $name; supported are Debian 12 and Ubuntu 24.04. Install the equivalents of: ${packages[*]}"
  fi
  echo "install_dependencies: this is $name; supported are Debian 12 and Ubuntu 24.04. Trying the same packages." >&2
}

# Prints the packages that are not installed, one a line.
missing_packages() {
  local installed
  installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true)
  local package
  for package in "${packages[@]}"; do
    grep --quiet --line-regexp --fixed-strings "installed $package" <<<"$installed" || echo "$package"
  done
}

install_packages() {
  local as_root=()
  if [[ $(id --user) -ne 0 ]]; then
    command -v sudo >/dev/null || fail "not root and no sudo; as root, install: $*"
    as_root=(sudo)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 --quiet=2)
  "${apt[@]}" update </dev/null
  "${apt[@]}" install --yes --no-install-recommends "$@" </dev/null
}

packages=("${build_packages[@]}" "${test_packages[@]}")
list=false
for argument in "$@"; do
  case $argument in
    --build-only) packages=("${build_packages[@]}") ;;
    --list) list=true ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done
if $list; then
  printf '%s\n' "${packages[@]}"
  exit 0
fi

check_distribution
mapfile -t missing < <(missing_packages)
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "All ${#packages[@]} packages are installed."
  exit 0
fi
echo "Installing: ${missing[*]}"
install_packages "${missing[@]}"
