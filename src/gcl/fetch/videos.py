"""Fetch videos from wherever they still are: dead links are expected, listed, and no error."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.progress import progress
from gcl.config.datasets import Videos
from gcl.data.annotations import read_json
from gcl.data.videos import count_frames, decode_frames, middle_frame

TIMEOUT_S = 60
AT_ONCE = 8
CHUNK = 1 << 16


def fetch_video(url: str, target: Path) -> str:
    """Make one video present; return what is wrong, or nothing.

    What a server sends is kept only if it decodes: a dead link often answers with a page.
    """
    if target.exists():
        return ""
    try:
        with atomic_path(target) as temporary:
            with requests.get(url, stream=True, timeout=TIMEOUT_S) as reply:
                reply.raise_for_status()
                with temporary.open("wb") as file:
                    for chunk in reply.iter_content(CHUNK):
                        file.write(chunk)
            decode_frames(str(temporary), [middle_frame(count_frames(temporary))])
    except (requests.RequestException, ValueError) as error:
        return str(error).replace(str(target.parent), "")
    return ""


def fetch_videos(videos: Videos, folder: Path) -> dict[str, int]:
    """Fetch all videos of a list, and write missing.csv beside them.

    Raises:
        UserError: the list isn't one, or a name leaves the folder.
    """
    listed = read_json(folder / videos.urls)
    if not isinstance(listed, dict):
        raise UserError(f"{folder / videos.urls} is no object of names and URLs")
    root = (folder / videos.to).resolve()
    names = sorted(listed)
    if outside := [name for name in names if not (root / name).resolve().is_relative_to(root)]:
        raise UserError(f"{folder / videos.urls}: '{outside[0]}' leaves the folder of videos")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = pool.map(lambda name: fetch_video(str(listed[name]), folder / videos.to / name), names)
        reasons = dict(zip(names, progress(outcomes, "fetch videos", "video", len(names)), strict=True))
    missing = [(name, listed[name], reason) for name, reason in reasons.items() if reason]
    with (folder / "missing.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("video", "url", "reason"), *missing])
    return {"videos": len(names), "missing": len(missing)}
