#!/usr/bin/env python3
"""Holds every #include to the arrows between the folders; prints each that breaks one and exits 1.

Usage: check_includes.py SOURCE_DIR
"""

import pathlib
import re
import sys

# Folder -> prefixes of includes that it must not have. The longest matching folder decides.
GRPC = ("grpc", "google/protobuf", "google/rpc", "tessera/v1/")
CONCRETE_BACKENDS = ("backend/cpu/", "backend/cuda/", "kernels/")
FORBIDDEN = {
    "kernels": ("absl/", "spdlog/", "backend/", "server/", "client/", "tests/", *GRPC),
    "backend/include": ("absl/", "spdlog/", "backend/", "kernels/", "server/", "client/", "tests/", *GRPC),
    "backend/core": (*CONCRETE_BACKENDS, "spdlog/", "server/", "client/", "tests/", *GRPC),
    "backend/cpu": ("backend/cuda/", "spdlog/", "server/", "client/", "tests/", *GRPC),
    "backend/cuda": ("backend/cpu/", "spdlog/", "server/", "client/", "tests/", *GRPC),
    # Built out of tree: it has the installed headers only.
    "backend/example": ("absl/", "backend/", "kernels/", "server/", "client/", "tests/", *GRPC),
    "server": (*CONCRETE_BACKENDS, "client/", "tests/"),
    "server/main.cc": ("client/", "tests/"),  # the composition root
    "client": ("tessera/attention.h", "tessera/backend.h", "backend/", "kernels/", "server/", "tests/"),
}
# What may not see the CUDA toolkit.
NO_CUDA = ("backend/include", "backend/core", "backend/cuda/cuda_backends.h", "server", "client")
CUDA = re.compile(r"cuda(_\w+)?\.h$|cuda/|cublas|cutlass/|cute/")
INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^">]+)[">]', re.MULTILINE)
SUFFIXES = {".h", ".hpp", ".cc", ".c", ".cu", ".cuh"}


def owner(path: str) -> str | None:
    folders = [folder for folder in FORBIDDEN if path == folder or path.startswith(folder + "/")]
    return max(folders, key=len, default=None)


def main() -> int:
    root = pathlib.Path(sys.argv[1])
    checked, broken = 0, []
    for top in ("kernels", "backend", "server", "client"):
        for file in sorted((root / top).rglob("*")):
            path = file.relative_to(root).as_posix()
            folder = owner(path)
            if file.suffix not in SUFFIXES or folder is None:
                continue
            checked += 1
            for include in INCLUDE.findall(file.read_text(encoding="utf-8")):
                cuda = path.startswith(NO_CUDA) and CUDA.match(include)
                if cuda or include.startswith(FORBIDDEN[folder]):
                    broken.append(f"{path}: {folder} must not include {include}")
    print("\n".join(broken) or f"{checked} files keep to the arrows")
    return 1 if broken or checked == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
