"""Fetch the files of a data set, check them, and list them.

In:  a row of config/datasets.yaml.
Out: data/<name>/<path> for every file, and fetched.json with their hashes.

A file that is already there is adopted if its hash is right. Downloads resume, and a file appears under
its name only when its hash is right.
"""

import logging
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import requests

from gcl.command import parser, run
from gcl.config import Dataset, File, from_json
from gcl.files import atomic_path, sha256_file, write_json
from gcl.progress import progress

log = logging.getLogger(__name__)

CHUNK = 1 << 16  # what an interruption may lose
TIMEOUT_S = 60


def from_package(file: File, target: Path) -> None:
    """Copy a file out of an installed Python package, without importing the package."""
    module, _, inner = (file.package or "").partition("/")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"Python package '{module}' is not installed; run `make setup`")
    source = Path(spec.submodule_search_locations[0]) / inner
    if not source.is_file():
        raise ValueError(f"Python package '{module}' has no file {inner}; is another version installed?")
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def from_urls(file: File, target: Path) -> None:
    """Download from the first URL that delivers the right bytes; an interrupted download is continued."""
    failures = []
    for url in file.urls:
        part = target.with_name(target.name + ".part")
        try:
            if file.bytes is None or file.sha256 is None:
                raise ValueError("a file from a URL needs sha256 and bytes in config/datasets.yaml")
            download(url, part, file.bytes)
            if (found := sha256_file(part)) != file.sha256:
                part.unlink()
                raise ValueError(f"sha256 is {found}, expected {file.sha256}")
            part.rename(target)
            return
        except (requests.RequestException, ValueError) as error:
            failures.append(f"  {url}: {error}")
    raise ValueError("\n".join([f"no source delivered {target}:", *failures]))


def download(url: str, part: Path, size: int) -> None:
    """Append what is missing of `size` bytes to `part`."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        part.unlink()
        have = 0
    with requests.get(
        url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=TIMEOUT_S
    ) as reply:
        reply.raise_for_status()
        resumed = reply.status_code == requests.codes.partial_content
        with part.open("ab" if resumed else "wb") as file:
            chunks = reply.iter_content(CHUNK)
            for chunk in progress(chunks, f"{part.stem} (64 KiB blocks)", "block", total=-(-size // CHUNK)):
                if file.tell() + len(chunk) > size:
                    raise ValueError(f"more than the expected {size} bytes")
                file.write(chunk)
    if (found := part.stat().st_size) != size:
        raise ValueError(f"{found} bytes, expected {size}")


def from_hub(file: File, target: Path) -> None:
    """Download from the Hugging Face hub through its own client, which resumes and keeps a cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, rest = (file.hub or "").partition("@")
    revision, _, inner = rest.partition("/")
    try:
        cached = hf_hub_download(repository, inner, revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"can't get {file.hub}: {error}") from error
    with atomic_path(target) as temporary:
        shutil.copyfile(cached, temporary)


SOURCES: dict[str, Callable[[File, Path], None]] = {"package": from_package, "urls": from_urls, "hub": from_hub}


def fetch_file(name: str, file: File, folder: Path) -> dict[str, str | int]:
    """Make one file present and right; return its hash and size.

    Raises:
        ValueError: the file can't be had, or its hash is wrong; a wrong file of the user's is left alone.
    """
    target = folder / file.path
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"config/datasets.yaml: {name}: path '{file.path}' leaves {folder}")
    if not target.exists():
        source = next((s for s in SOURCES if getattr(file, s)), None)
        if source is None:
            raise ValueError(f"{target} is missing; it ships with the repository: `git checkout -- {target}`")
        target.parent.mkdir(parents=True, exist_ok=True)
        SOURCES[source](file, target)
    found = sha256_file(target)
    if file.sha256 is None and file.hub:
        log.warning("%s: no sha256 in config/datasets.yaml; found %s", target, found)
    elif found != file.sha256:
        raise ValueError(
            f"{target} has sha256 {found} ({target.stat().st_size} bytes), expected {file.sha256} "
            f"({file.bytes} bytes); delete it to fetch it again, or correct config/datasets.yaml"
        )
    return {"sha256": found, "bytes": target.stat().st_size}


def fetch(name: str, dataset: Dataset, output: Path) -> None:
    """Fetch all files of `dataset` beside `output`, which lists them."""
    files = {
        file.path: fetch_file(name, file, output.parent) for file in progress(dataset.files, f"fetch {name}", "file")
    }
    write_json(output, {"source": dataset.source, "licence": dataset.licence, "files": files})


def main() -> None:
    """Run from the command line."""
    made = parser("fetch", __doc__, "--name minilm --dataset '{...}' --output data/minilm/fetched.json")
    made.add_argument("--name", required=True, help="row of config/datasets.yaml")
    made.add_argument("--dataset", required=True, type=from_json(Dataset), help="that row as JSON")
    made.add_argument("--output", required=True, type=Path, help="list to write, beside the files")
    run(made, fetch)


if __name__ == "__main__":
    main()
