"""Generates tessera_client/_proto from the repository's proto/ folder, then builds as pyproject.toml says.

The modules are generated flat into a private package, with protoc's absolute imports (`tessera.v1`) pointed there,
so that installing the client puts nothing but `tessera_client` on the import path. google/rpc comes from
googleapis-common-protos: a second copy of those files would clash in protobuf's descriptor pool.

A source distribution holds the generated modules and not proto/: there, generation is skipped.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
PROTO_ROOT = HERE.parent.parent / "proto"
SOURCES = PROTO_ROOT / "tessera" / "v1"
OUTPUT = HERE / "tessera_client" / "_proto"
MODULES = ("tensor", "ledger", "attention")


def generate() -> None:
    import grpc_tools
    from grpc_tools import protoc

    well_known = Path(grpc_tools.__file__).parent / "_proto"  # google/protobuf/*.proto
    with tempfile.TemporaryDirectory() as scratch:
        sources = [str(SOURCES / f"{module}.proto") for module in MODULES]
        includes = [f"-I{PROTO_ROOT}", f"-I{well_known}"]
        arguments = ["protoc", *includes, f"--python_out={scratch}", f"--pyi_out={scratch}", *sources]
        if protoc.main(arguments) != 0:
            raise SystemExit(f"protoc failed on {SOURCES}")
        shutil.rmtree(OUTPUT, ignore_errors=True)
        OUTPUT.mkdir()
        (OUTPUT / "__init__.py").write_text('"""Generated from proto/tessera/v1 by setup.py."""\n')
        for file in Path(scratch, "tessera", "v1").iterdir():
            source = re.sub(
                "^from tessera.v1 import", "from tessera_client._proto import", file.read_text(), flags=re.M
            )
            (OUTPUT / file.name).write_text(source)


if SOURCES.is_dir():
    generate()
elif not OUTPUT.is_dir():
    raise SystemExit(f"cannot build: neither {SOURCES} nor the modules generated from it are here")
setup()
