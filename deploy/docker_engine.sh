# Sourced by test_image.sh: a Docker engine to test with. The machine's own where one answers; else one of Debian's
# packages, unpacked, started and ended here, which leaves nothing behind but runc, iptables and mmdebstrap.
# shellcheck shell=bash

engine_folder=""  # of an engine that was started here
engine_pid=""
engine_keeps_bridge=false  # somebody else's

# Calls `docker` with the engine that start_engine found or started.
# start_engine WORK IMAGE: WORK is an empty folder, IMAGE the base image that must be there, a slim Debian 12.
start_engine() {
  local work=$1 base_image=$2
  if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    docker buildx version >/dev/null || fail "docker has no plugin buildx"
    docker compose version >/dev/null || fail "docker has no plugin compose"
    docker image inspect "$base_image" >/dev/null 2>&1 || docker pull --quiet "$base_image"
    return
  fi
  [[ $(id --user) -eq 0 ]] || fail "no Docker engine answers, and setting one up takes root"
  # shellcheck source=/dev/null
  [[ $(. /etc/os-release; echo "${VERSION_CODENAME:-}") == bookworm ]] ||
    fail "no Docker engine answers, and setting one up takes Debian 12"
  local tool missing=()
  for tool in runc iptables mmdebstrap; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  apt-get --quiet=2 update
  if [[ ${#missing[@]} -gt 0 ]]; then
    DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 install --yes --no-install-recommends "${missing[@]}" </dev/null
  fi
  unpack_engine "$work"
  run_engine "$work"
  apt_sources | mmdebstrap --quiet --mode=root --variant=minbase --dpkgopt=force-unsafe-io bookworm - - |
    docker import --change 'CMD ["bash"]' - "$base_image" >/dev/null
}

# The machine's own package sources, so that the base image installs from where the machine does.
apt_sources() {
  # shellcheck disable=SC2016
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    grep ' bookworm' | sort --unique
}

# Debian 12's own engine is too old for the build file; that of Debian 13 runs here as it is, over Debian 12's runc.
unpack_engine() {
  local work=$1 archive
  # shellcheck disable=SC2016
  archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' 'Component: main' |
    head --lines=1)
  [[ -n $archive ]] || fail "apt-get indextargets names no archive of Debian 12"
  mkdir -p "$work"/{lists/partial,cache/archives/partial,packages,root}
  echo "deb $archive trixie main" >"$work/sources.list"
  local apt=(apt-get --quiet=2 -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  "${apt[@]}" update
  (cd "$work/packages" && "${apt[@]}" download docker.io docker-cli containerd tini docker-compose docker-buildx)
  local package
  for package in "$work"/packages/*.deb; do dpkg -x "$package" "$work/root"; done
  rm -r "$work/packages" "$work/lists" "$work/cache"
}

run_engine() {
  local work=$1
  export PATH=$work/root/usr/bin:$work/root/usr/sbin:$PATH
  export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config
  mkdir "$DOCKER_CONFIG"
  ln -s "$work/root/usr/libexec/docker/cli-plugins" "$DOCKER_CONFIG/cli-plugins"
  iptables-save >"$work/iptables"
  ip6tables-save >"$work/ip6tables" 2>/dev/null || true
  cat /proc/sys/net/ipv4/ip_forward >"$work/ip_forward"
  if [[ -e /sys/class/net/docker0 ]]; then engine_keeps_bridge=true; fi
  engine_folder=$work
  # In a session of its own: Ctrl-C goes to the test, which still needs the engine to clean up.
  setsid dockerd --data-root="$work/data" --exec-root="$work/run" --pidfile="$work/docker.pid" \
    --host="$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
  engine_pid=$!
  local deadline=$((SECONDS + 60))
  until docker info >/dev/null 2>&1; do
    kill -0 "$engine_pid" 2>/dev/null || { tail -20 "$work/dockerd.log" >&2; fail "dockerd ended"; }
    ((SECONDS < deadline)) || { tail -20 "$work/dockerd.log" >&2; fail "dockerd does not answer after 60 s"; }
    sleep 0.2
  done
}

# Ends the engine that was started here, if any, and undoes what it did to the machine's network.
stop_engine() {
  [[ -n $engine_folder ]] || return 0
  local i
  kill -TERM "$engine_pid" 2>/dev/null || true
  for ((i = 0; i < 150; ++i)); do
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 0.2
  done
  kill -KILL "$engine_pid" 2>/dev/null || true
  wait "$engine_pid" 2>/dev/null || true
  $engine_keeps_bridge || ip link delete docker0 2>/dev/null || true
  iptables-restore <"$engine_folder/iptables" || true
  ip6tables-restore <"$engine_folder/ip6tables" 2>/dev/null || true
  cat "$engine_folder/ip_forward" >/proc/sys/net/ipv4/ip_forward || true
  local mount
  while read -r mount; do umount --lazy "$mount" || true; done < <(
    awk -v folder="$engine_folder/" 'index($2, folder) == 1 {print $2}' /proc/mounts | sort --reverse)
}
