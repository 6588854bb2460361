#!/usr/bin/env python3
"""Unpacks the release tarball and uses it the way a machine with nothing but glibc would.

Usage: release_test.py TARBALL WORK_DIR VERSION

The programs run inside a root folder that holds the unpacked tarball and glibc's own libraries, entered by chroot.
Where chroot is not permitted they run with an empty environment instead, and this says so; that every library comes
from the tarball or is glibc's is then shown by ldd alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What the target machine has (cmake/TesseraReleaseTarball.cmake leaves out the same).
GLIBC_LIBRARIES = ("ld-linux-x86-64.so.2", *(f"lib{name}.so.{version}" for name, version in (
    ("c", 6), ("m", 6), ("dl", 2), ("rt", 1), ("pthread", 0), ("resolv", 2), ("mvec", 1))))
OLDEST_GLIBC = (2, 36)
TIMEOUT_SECONDS = 120


class Failure(Exception):
    """What is wrong with the tarball."""


def check(condition: bool, message: str) -> None:
    if not condition:
        raise Failure(message)


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def readelf(option: str, path: Path) -> str:
    return subprocess.run(["readelf", "--wide", option, path], check=True, capture_output=True, text=True).stdout


def versions_needed(path: Path, family: str) -> set[tuple[int, ...]]:
    """The symbol versions of `family` ("GLIBC") that the file asks others for, or those that it offers itself."""
    return {version_tuple(found) for found in re.findall(rf"\b{family}_([\d.]+)\b", readelf("--version-info", path))}


class Place:
    """Where the tarball is unpacked, and how its programs are run there."""

    def __init__(self, work: Path) -> None:
        self.root = work / "machine"
        self.inside = Path("/opt/a place with spaces")
        self.enter: list[str] | None = None
        self.tree = Path()

    def unpack(self, tarball: Path, name: str) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        home = self.root / self.inside.relative_to("/")
        home.mkdir(parents=True)
        with tarfile.open(tarball) as archive:
            for member in archive:
                check(member.name.split("/")[0] == name, f"{member.name} lies outside {name}/")
                check(member.uid == member.gid == 0, f"{member.name} belongs to {member.uid}:{member.gid}, not to root")
        subprocess.run(["tar", "--extract", "--no-same-owner", "--file", tarball, "--directory", home], check=True)
        self.inside /= name
        self.tree = home / name

    def add_glibc(self) -> None:
        for name in GLIBC_LIBRARIES:
            for folder in ("lib64", "lib/x86_64-linux-gnu"):
                if Path("/", folder, name).exists():
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                    shutil.copy(Path("/", folder, name), self.root / folder / name)
        (self.root / "tmp").mkdir()
        for enter in (["chroot"], ["unshare", "--map-root-user", "chroot"]):
            if self._works([*enter, str(self.root)]):
                self.enter = [*enter, str(self.root)]
                return
        print("chroot is not permitted here: the programs run with an empty environment instead")

    def _works(self, enter: list[str]) -> bool:
        command = [*enter, str(self.inside / "bin" / "tessera"), "--version"]
        try:
            return subprocess.run(command, capture_output=True, timeout=TIMEOUT_SECONDS).returncode in (0, 127)
        except FileNotFoundError:
            return False

    def command(self, program: str, *arguments: str) -> list[str]:
        if self.enter is None:
            return [str(self.tree / "bin" / program), *arguments]
        return [*self.enter, str(self.inside / "bin" / program), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        # LD_BIND_NOW: a symbol that no library has fails at once, not when it is first called.
        environment = {"LD_BIND_NOW": "1", "PATH": os.environ["PATH"]}
        if self.enter is not None:
            # What ld.so otherwise learns from /proc, which this root has not.
            environment["LD_ORIGIN_PATH"] = str(self.inside / "bin")
        return environment

    def run(self, program: str, *arguments: str, expect: int = 0) -> str:
        run = subprocess.run(self.command(program, *arguments), env=self.environment, capture_output=True, text=True,
                             timeout=TIMEOUT_SECONDS)
        check(run.returncode == expect, f"{program} {' '.join(arguments)}: exit code {run.returncode}, expected {expect}\n"
              f"{run.stdout}{run.stderr}")
        return run.stdout + run.stderr

    @contextmanager
    def server(self) -> Iterator[str]:
        """Yields the address; afterwards the server must drain and end with 0."""
        process = subprocess.Popen(self.command("tessera-server", "--listen=127.0.0.1:0"), env=self.environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            check(line.startswith("listening on "), f"tessera-server does not start: {line}")
            yield line.split()[2]
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=TIMEOUT_SECONDS)
            check(process.returncode == 0, f"tessera-server ended with {process.returncode}, expected 0\n{log}")
        finally:
            process.kill()
            process.communicate()


def check_contents(tree: Path) -> None:
    for path in ("bin/tessera-server", "bin/tessera", "bin/tessera_conformance", "bin/tessera-gpu-checks",
                 "lib/libstdc++.so.6", "lib/libgcc_s.so.1", "lib/libopenblas.so.0", "include/tessera/backend.h",
                 "lib/cmake/tessera/tesseraConfig.cmake", "share/tessera/proto/tessera/v1/attention.proto",
                 "share/tessera/client/python/setup.py", "share/doc/tessera/LICENSE", "share/doc/tessera/README.md",
                 "share/doc/tessera/licenses/packages.txt"):
        check((tree / path).is_file(), f"{path} is missing")
    for name in (*GLIBC_LIBRARIES, "libcuda.so.1"):
        check(not (tree / "lib" / name).exists(), f"lib/{name} must be the target machine's own")
    files = [path for path in tree.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB unpacked")


def check_libraries(tree: Path) -> None:
    """Symbol versions, run paths, and where each library comes from."""
    host = version_tuple(os.confstr("CS_GNU_LIBC_VERSION").split()[1])
    newest = max(OLDEST_GLIBC, host)
    if newest > OLDEST_GLIBC:
        print(f"built on glibc {host}, so it needs that; build on Debian 12 for {OLDEST_GLIBC}")
    objects = [path for folder in ("bin", "lib") for path in sorted((tree / folder).iterdir())
               if path.is_file() and is_elf(path)]
    check(len(objects) > 20, f"only {len(objects)} ELF files")
    offered = versions_needed(tree / "lib" / "libstdc++.so.6", "GLIBCXX")
    for path in objects:
        glibc = max(versions_needed(path, "GLIBC"), default=(0,))
        check(glibc <= newest, f"{path.name} needs glibc {glibc}, expected at most {newest}")
        cxx = versions_needed(path, "GLIBCXX") - offered
        check(not cxx, f"{path.name} needs GLIBCXX {cxx}, which lib/libstdc++.so.6 lacks")
        dynamic = readelf("--dynamic", path)
        check("RUNPATH" not in dynamic, f"{path.name} has a RUNPATH")
        if path.parent.name == "bin":
            check("Library rpath: [$ORIGIN/../lib]" in dynamic, f"{path.name} lacks the RPATH $ORIGIN/../lib")
            check_origin(tree, path)
        check(".symtab" not in readelf("--sections", path) or path.parent.name == "lib", f"{path.name} is not stripped")
    print(f"{len(objects)} ELF files need at most glibc {'.'.join(map(str, newest))}")


def check_origin(tree: Path, program: Path) -> None:
    ldd = subprocess.run(["ldd", program], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    for line in ldd.stdout.splitlines():
        name, _, target = line.strip().partition(" => ")
        place = target.split(" (")[0]
        if not target or name in GLIBC_LIBRARIES:
            continue
        check(place.startswith(f"{tree}/"), f"{program.name} takes {name} from {place or 'nowhere'}")


def make_inputs(place: Path, source: Path) -> str:
    """A small batch where the programs can see it; its path for them."""
    file = place / "tmp" / "batch.safetensors"
    subprocess.run([sys.executable, source / "deploy/quickstart_batch.py", "make", file, "40,3", "50,60"], check=True,
                   stdout=subprocess.DEVNULL)
    return str(file)


def use_programs(place: Place, source: Path, version: str) -> None:
    for program in ("tessera", "tessera-server"):
        output = place.run(program, "--version")
        check(version in output, f"{program} --version says {output.strip()}, expected {version}")
    # cpu_unfused opens OpenBLAS by name, at run time.
    for backend in ("cpu_fused", "cpu_unfused"):
        place.run("tessera_conformance", f"--backend={backend}", "--filter=causal_q19")

    batch = make_inputs(place.root, source)
    if place.enter is not None:
        batch = "/tmp/" + Path(batch).name
    with place.server() as address:
        server = f"--server={address}"
        check("SERVING" in place.run("tessera", "health", server), "health does not say SERVING")
        info = json.loads(place.run("tessera", "info", "--json", server))
        usable = {backend["name"] for backend in info["backends"] if backend["usable"]}
        check({"cpu_fused", "cpu_unfused", "cpu_standard"} <= usable, f"usable are only {usable}")
        place.run("tessera", "attend", server, f"--input={batch}", "--q-lens=40,3", "--kv-lens=50,60", "--causal")
        place.run("tessera", "verify", server, "--cases=12", "--max-length=64")
    print(f"server and command line ran {'in a root of their own' if place.enter else 'with an empty environment'}")


def main(tarball: str, work: str, version: str) -> int:
    source = Path(__file__).resolve().parents[2]
    place = Place(Path(work).resolve())
    try:
        place.unpack(Path(tarball), f"tessera-{version}-linux-x86_64")
        check_contents(place.tree)
        check_libraries(place.tree)
        place.add_glibc()
        use_programs(place, source, version)
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
