"""Write a conda channel in a folder: its `python` is the interpreter that runs, its `pip` is empty."""

import bz2
import hashlib
import io
import json
import os
import platform
import site
import sys
import tarfile
from pathlib import Path


def package(folder, name, version, files, links, depends):
    """Write one package; return its file name and its record in the channel's index."""
    about = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": depends}
    index = about | {"subdir": "linux-64", "timestamp": 0}
    paths, buffer = [], io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(path, data):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))

        for path, data in files.items():
            add(path, data)
            digest = hashlib.sha256(data).hexdigest()
            paths.append({"_path": path, "path_type": "hardlink", "sha256": digest, "size_in_bytes": len(data)})
        for path, target in links.items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
            paths.append(
                {"_path": path, "path_type": "softlink", "sha256": hashlib.sha256(b"").hexdigest(), "size_in_bytes": 0}
            )
        add("info/index.json", json.dumps(index).encode())
        add("info/files", "".join(f"{path['_path']}\n" for path in paths).encode())
        add("info/paths.json", json.dumps({"paths": paths, "paths_version": 1}).encode())
    data = bz2.compress(buffer.getvalue())
    file = f"{name}-{version}-0.tar.bz2"
    (folder / file).write_bytes(data)
    digests = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}  # noqa: S324
    return file, index | digests | {"size": len(data)}


def write_channel(channel: Path) -> None:
    """Write the channel."""
    for subdir in ("linux-64", "noarch"):
        (channel / subdir).mkdir(parents=True)
    version, base = platform.python_version(), os.path.realpath(sys.executable)
    short = ".".join(version.split(".")[:2])
    packages = "\n".join(site.getsitepackages()) + "\n"
    files = {
        "pyvenv.cfg": f"home = {os.path.dirname(base)}\nversion = {version}\n".encode(),
        f"lib/python{short}/site-packages/outside.pth": packages.encode(),
    }
    links = {"bin/python": base, "bin/python3": "python", f"bin/python{short}": "python"}
    folder = channel / "linux-64"
    records = dict([package(folder, "python", version, files, links, []),
                    package(folder, "pip", "24.0", {"share/pip": b"\n"}, {}, ["python"])])  # fmt: skip
    for subdir, found in (("linux-64", records), ("noarch", {})):
        index = {
            "info": {"subdir": subdir},
            "packages": found,
            "packages.conda": {},
            "removed": [],
            "repodata_version": 1,
        }
        (channel / subdir / "repodata.json").write_text(json.dumps(index))
