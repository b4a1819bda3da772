"""Unpack tar files, also in parts, as a stream: the parts are never joined on disk. And zip files.

A member appears under its name only when it is complete; one that is there already with its size is left alone, so
that an unpacking that was stopped goes on. Only plain files are taken: links and devices are skipped and counted.
"""

import io
import json
import logging
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from gcl.common.errors import UserError
from gcl.common.files import atomic_path, write_json
from gcl.common.progress import progress
from gcl.config.datasets import Archive

log = logging.getLogger(__name__)

BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, OverflowError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


class Parts(io.RawIOBase):
    """Files read one after the other as if they were one."""

    def __init__(self, paths: list[Path]) -> None:
        self.rest = iter(paths)
        self.file: Any = None

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current part, or from the next."""
        while True:
            if self.file is None:
                path = next(self.rest, None)
                if path is None:
                    return 0
                self.file = path.open("rb")
            if count := self.file.readinto(buffer):
                return int(count)
            self.file.close()
            self.file = None


def marker(archive: Archive, folder: Path) -> Path:
    """Return the file that says what of an archive was unpacked."""
    return folder / ".unpacked" / f"{archive.parts[0].replace('/', '_')}.json"


def unpacked(archive: Archive, folder: Path) -> dict[str, Any] | None:
    """Return what was unpacked of an archive, or None if that isn't all that is wanted of it."""
    path = marker(archive, folder)
    if not path.exists():
        return None
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return (
        about if not about["members"] or (archive.members and set(archive.members) <= set(about["members"])) else None
    )


def adopt(archive: Archive, folder: Path) -> None:
    """Take what somebody has unpacked already for the archive's content, or for a part of it.

    Raises:
        UserError: there is nothing.
    """
    top = folder / archive.to
    files = sorted(
        prefix for prefix in archive.members or {""} if (top / prefix).is_dir() and any((top / prefix).iterdir())
    )
    if not files:
        wanted = ", ".join(str(top / prefix) for prefix in archive.members or {""})
        raise UserError(f"no files in {wanted}; unpack {archive.parts[0]} there, then adopt it")
    write_json(marker(archive, folder), {"parts": None, "members": files if archive.members else []})
    log.info("adopted %s", ", ".join(str(top / prefix) for prefix in files))


def inner_name(member: str, archive: Archive) -> str | None:
    """Return where a member goes below the archive's folder; None if it isn't wanted.

    Raises:
        UserError: the name is absolute or climbs out of the folder.
    """
    parts = PurePosixPath(member).parts
    if member.startswith("/") or ".." in parts:
        raise UserError(f"{archive.parts[0]}: member '{member}' leaves the folder; not unpacked")
    name = "/".join(parts[archive.strip :])
    is_wanted = not archive.members or any(name.startswith(prefix) for prefix in archive.members)
    return name if name and is_wanted else None


def unpack(archive: Archive, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Unpack an archive below `folder`, unless that was done; return what was.

    It was done if its record names the same parts, or if the parts are gone or were never there.

    Raises:
        UserError: it is cut or broken, a member leaves the folder, or the members exceed the stated size.
    """
    parts = [files[part]["sha256"] for part in archive.parts if part in files]
    about = unpacked(archive, folder)
    if about is not None and (about["parts"] is None or set(parts) <= set(about["parts"])):
        return about
    wanted = {"parts": parts, "members": sorted(archive.members)}
    counts = {"files": 0, "bytes": 0, "skipped": 0}
    try:
        read = members_of_zip if archive.parts[0].lower().endswith(".zip") else members_of_tar
        members = read([folder / part for part in archive.parts])
        for member in progress(members, f"unpack {archive.parts[0]}", "member"):
            take(member, archive, folder / archive.to, counts)
    except BROKEN as error:
        raise UserError(
            f"{folder / archive.parts[0]} can't be unpacked after {counts['files']} files: {error}; is it complete?"
        ) from error
    if counts["skipped"]:
        log.warning("%s: %d links and devices were not unpacked", archive.parts[0], counts["skipped"])
    write_json(marker(archive, folder), wanted | counts)
    for part in archive.parts if archive.discard else ():
        (folder / part).unlink()
    return wanted | counts


class Member(NamedTuple):
    """What an archive holds under a name."""

    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def members_of_tar(parts: list[Path]) -> Iterator[Member]:
    """Yield the members of a tar file that lies in parts; each must be read before the next."""
    with (
        io.BufferedReader(Parts(parts), 1 << 20) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as tar,
    ):
        for info in tar:
            yield Member(info.name, info.size, info.isdir(), info.isfile(), partial(tar.extractfile, info))


def members_of_zip(parts: list[Path]) -> Iterator[Member]:
    """Yield the members of a zip file, which lies in one part."""
    if len(parts) > 1:
        raise UserError(f"{parts[0].name}: a zip file in {len(parts)} parts; expected one")
    with zipfile.ZipFile(parts[0]) as archive:
        for info in archive.infolist():
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            is_file = not info.is_dir() and not is_link
            yield Member(info.filename, info.file_size, info.is_dir(), is_file, partial(archive.open, info))


def take(member: Member, archive: Archive, folder: Path, counts: dict[str, int]) -> None:
    """Unpack one member if it is a wanted plain file."""
    name = inner_name(member.name, archive)
    if name is None or member.is_folder:
        return
    if not member.is_file:
        counts["skipped"] += 1
        return
    counts["files"] += 1
    counts["bytes"] += member.size
    if archive.bytes is not None and counts["bytes"] > archive.bytes:
        raise UserError(f"{archive.parts[0]} unpacks to more than the {archive.bytes} bytes of config/datasets.yaml")
    target = folder / name
    if target.exists() and target.stat().st_size == member.size:
        return
    source = member.open()
    if source is not None:
        with source, atomic_path(target) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(source, file)
            if file.tell() != member.size:
                raise EOFError(f"'{name}' is cut")
