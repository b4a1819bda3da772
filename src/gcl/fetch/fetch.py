"""Fetch the files of a data set, check them, and list them.

In:  a row of config/datasets.yaml.
Out: data/<name>/<path> for every file, and fetched.json with their hashes.

A file that is already there is adopted if its hash is right, without a connection. Downloads resume, and a
file appears under its name only when its hash is right. $HF_ENDPOINT, $HF_HOME and $HF_HUB_OFFLINE are honoured.
"""

import logging
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import requests

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file, write_json
from gcl.common.names import lookup
from gcl.common.progress import progress
from gcl.common.rows import from_json, load_yaml, parse
from gcl.config.datasets import Dataset, File
from gcl.fetch.unpack import adopt, unpack, unpacked
from gcl.fetch.videos import fetch_videos

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # what an interruption may lose
TIMEOUT_S = 60
FILES_AT_ONCE = 4


def from_package(file: File, target: Path) -> None:
    """Copy a file out of an installed Python package, without importing the package."""
    module, _, inner = (file.package or "").partition("/")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"Python package '{module}' is not installed; run `make setup`")
    source = Path(spec.submodule_search_locations[0]) / inner
    if not source.is_file():
        raise UserError(f"Python package '{module}' has no file {inner}; is another version installed?")
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def from_urls(file: File, target: Path) -> None:
    """Download from the first URL that delivers the right bytes; an interrupted download is continued."""
    failures = []
    for url in file.urls:
        part = target.with_name(target.name + ".part")
        try:
            download(url, part, file.bytes)
            if file.sha256 is not None and (actual := sha256_file(part)) != file.sha256:
                part.unlink()
                raise UserError(f"sha256 is {actual}, expected {file.sha256}")
            part.rename(target)
            return
        except (requests.RequestException, ValueError) as error:
            failures.append(f"  {url}: {error}")
    raise UserError("\n".join([f"no source delivered {target}:", *failures]))


def download(url: str, part: Path, size: int | None) -> None:
    """Append what is missing of `size` bytes to `part`; without a size, of what the server says it has."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have >= size:
        part.unlink()
        have = 0
    # Compressed on the way, the stated size would be that of other bytes than those that arrive.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # what is there is no part of this file
            raise UserError("the server has no more than was there already; removed it, run again")
        reply.raise_for_status()
        if url.startswith("https:") and not reply.url.startswith("https:"):
            raise UserError(f"the server sends elsewhere, and unencrypted: {reply.url}")
        if (coding := reply.headers.get("Content-Encoding", "identity")) != "identity":
            raise UserError(f"the server sends the file as {coding}, though it was asked for the file as it is")
        resumed = reply.status_code == requests.codes.partial_content
        if size is None:
            size = stated_size(reply, have if resumed else 0)
        with part.open("ab" if resumed else "wb") as file:
            chunks = reply.iter_content(CHUNK)
            for chunk in progress(chunks, f"{part.stem} (64 KiB blocks)", "block", total=-(-size // CHUNK)):
                if file.tell() + len(chunk) > size:
                    raise UserError(f"more than the expected {size} bytes")
                file.write(chunk)
    if (size_now := part.stat().st_size) != size:
        raise UserError(f"{size_now} bytes, expected {size}")


def stated_size(reply: requests.Response, have: int) -> int:
    """Return the size of the whole file that a reply announces."""
    if "Content-Length" not in reply.headers:
        raise UserError("the server doesn't say how long the file is, and config/datasets.yaml has no bytes for it")
    return have + int(reply.headers["Content-Length"])


def from_hub(file: File, target: Path) -> None:
    """Download from the Hugging Face hub through its own client, which resumes and keeps a cache."""
    from huggingface_hub import hf_hub_download

    repository, revision, inner = split_hub(file.hub or "")
    try:
        cached = Path(hf_hub_download(repository, inner, revision=revision))
    except Exception as error:  # its own, those of its HTTP library, and the system's
        raise UserError(f"can't get {file.hub}: {error}; run again to go on") from error
    if revision not in (commit := cached_commit(cached, inner)):
        log.warning("%s: '%s' is a branch, now at commit %s; `gcl fetch --lock` pins it", file.hub, revision, commit)
    with atomic_path(target) as temporary:
        try:
            os.link(cached.resolve(), temporary)  # some files are larger than what the disk has left
        except OSError:
            shutil.copyfile(cached, temporary)
    if file.sha256 is not None and (actual := sha256_file(target)) != file.sha256:
        target.unlink()
        cached.resolve().unlink()  # else the next try would be given the same bytes
        raise UserError(f"{file.hub} has sha256 {actual}, expected {file.sha256}; removed it from the cache, run again")


def split_hub(name: str) -> tuple[str, str, str]:
    """Split org/name@revision/inner/path.

    Raises:
        UserError: it has another form.
    """
    repository, at, rest = name.partition("@")
    revision, slash, inner = rest.partition("/")
    if not (at and slash and inner and repository.count("/") == 1):
        raise UserError(f"hub: '{name}' is not org/name@revision/path; correct config/datasets.yaml")
    return repository, revision, inner


def cached_commit(cached: Path, inner: str) -> str:
    """Return the commit of a file in the hub's cache, .../snapshots/<commit>/<inner>."""
    return cached.parts[-1 - len(Path(inner).parts)]


SOURCES: dict[str, Callable[[File, Path], None]] = {"package": from_package, "urls": from_urls, "hub": from_hub}


def fetch_file(name: str, file: File, folder: Path) -> dict[str, str | int]:
    """Make one file present and right; return its hash and size.

    Raises:
        UserError: the file can't be had, or its hash is wrong; a wrong file of the user's is left alone.
    """
    target = folder / file.path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"config/datasets.yaml: {name}: path '{file.path}' leaves {folder}")
    if not target.exists():
        source = next((s for s in SOURCES if getattr(file, s)), None)
        if source is None:
            raise UserError(f"{target} is missing; it ships with the repository: `git checkout -- {target}`")
        target.parent.mkdir(parents=True, exist_ok=True)
        SOURCES[source](file, target)
    sha256 = sha256_file(target)
    if file.sha256 is None:
        log.warning("%s: no sha256 in config/datasets.yaml; found %s, `gcl fetch --lock` records it", target, sha256)
    elif sha256 != file.sha256:
        raise UserError(
            f"{target} has sha256 {sha256} ({target.stat().st_size} bytes), expected {file.sha256} "
            f"({file.bytes} bytes); delete it to fetch it again, or correct config/datasets.yaml"
        )
    return {"sha256": sha256, "bytes": target.stat().st_size}


def lock(name: str, registry: Path, data: Path) -> None:
    """Write hashes, sizes and commits of what was fetched into the registry, where it has none; keep its comments.

    Raises:
        UserError: nothing was fetched, or the registry has no such row.
    """
    from huggingface_hub import try_to_load_from_cache
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    rows = yaml.load(registry)
    row = lookup(rows, name, "data set", str(registry))
    for file in row["files"]:
        target = data / name / file["path"]
        if not target.exists():
            raise UserError(f"{target} is not there; fetch '{name}' first, then lock it")
        if "hub" in file:
            repository, revision, inner = split_hub(file["hub"])
            cached = try_to_load_from_cache(repository, inner, revision=revision)
            if isinstance(cached, str):
                file["hub"] = f"{repository}@{cached_commit(Path(cached), inner)}/{inner}"
        file.setdefault("bytes", target.stat().st_size)
        file.setdefault("sha256", sha256_file(target))
    with atomic_path(registry) as temporary:
        yaml.dump(rows, temporary)
    log.info("%s: wrote %d files of %s", registry, len(row["files"]), name)


def adopt_archives(name: str, registry: Path, data: Path) -> None:
    """Take folders that are there already for the archives of a data set."""
    row = lookup(load_yaml(registry), name, "data set", str(registry))
    archives = parse(Dataset, row, f"{registry}: {name}").archives
    if not archives:
        raise UserError(f"'{name}' has no archives; a file is adopted by `fetch` itself if it is what {registry} says")
    for archive in archives:
        adopt(archive, data / name)


def to_fetch(dataset: Dataset, folder: Path) -> list[File]:
    """Return the files but for parts of archives that were unpacked and are gone."""
    done = {part for archive in dataset.archives if unpacked(archive, folder) for part in archive.parts}
    return [file for file in dataset.files if file.path not in done or (folder / file.path).exists()]


def fetch(
    name: str,
    dataset: Dataset | None,
    output: Path | None,
    registry: Path | None,
    adopting: Path | None = None,
    own: str | None = None,
) -> None:
    """Fetch all files of `dataset` beside `output`, which lists them; or lock what was fetched, or adopt what is there.

    Raises:
        UserError: a file can't be had, or is another than the registry says.
    """
    if registry is not None:
        lock(name, registry, Path("data"))
        return
    if adopting is not None:
        adopt_archives(name, adopting, Path("data"))
        return
    if dataset is None or output is None:
        raise UserError("give --dataset and --output, or --lock, or --adopt")
    folder = output.parent
    check_space(name, dataset, folder)
    needed = to_fetch(dataset, folder)
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        fetched = pool.map(lambda file: fetch_file(name, file, folder), needed)
        counted = progress(fetched, f"fetch {name}", "file", len(needed))
        files = {file.path: about for file, about in zip(needed, counted, strict=True)}
    about: dict[str, Any] = {"source": dataset.source, "licence": dataset.licence, "files": files}
    if own is not None:
        about["own"] = own  # so that what was prepared of other content is prepared again
    if dataset.archives:
        about["unpacked"] = [unpack(archive, folder, files) for archive in dataset.archives]
    if dataset.videos is not None:
        about["videos"] = fetch_videos(dataset.videos, folder)
    write_json(output, about)


def check_space(name: str, dataset: Dataset, folder: Path) -> None:
    """Raise ValueError if what is still to be written, as far as its size is known, exceeds the free space."""
    folder.mkdir(parents=True, exist_ok=True)
    absent = sum(file.bytes or 0 for file in to_fetch(dataset, folder) if not (folder / file.path).exists())
    packed = sum(archive.bytes or 0 for archive in dataset.archives if not unpacked(archive, folder))
    free = shutil.disk_usage(folder).free
    if absent + packed > free:
        raise UserError(
            f"'{name}' needs {absent / 1e9:.1f} GB for files and {packed / 1e9:.1f} GB unpacked, "
            f"but {folder} has {free / 1e9:.1f} GB free"
        )


def main() -> None:
    """Run from the command line."""
    options = parser("fetch", __doc__, "--name minilm --dataset '{...}' --output data/minilm/fetched.json")
    options.add_argument("--name", required=True, help="row of config/datasets.yaml")
    options.add_argument("--dataset", type=from_json(Dataset), help="that row as JSON")
    options.add_argument("--output", type=Path, help="list to write, beside the files")
    options.add_argument("--own", metavar="HASH", help="of the content of a data set that lists no files")
    options.add_argument(
        "--lock",
        dest="registry",
        nargs="?",
        type=Path,
        const=Path("config/datasets.yaml"),
        metavar="YAML",
        help="write hashes, sizes and commits of the fetched files into the registry (config/datasets.yaml)",
    )
    options.add_argument(
        "--adopt",
        dest="adopting",
        nargs="?",
        type=Path,
        const=Path("config/datasets.yaml"),
        metavar="YAML",
        help="take folders below data/<name> that are there already for what its archives hold",
    )
    run(options, fetch)
