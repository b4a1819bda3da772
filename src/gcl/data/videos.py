"""Frames of videos as images.

A frame's location is video.mp4::<key>, where a key is `middle`, or `i/n` for the i-th of n frames spread evenly;
`/bgr` after it swaps red and blue. Frames come as PPM files, lossless and without a second copy on disk.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from gcl.common.errors import UserError

LOCKS = [threading.Lock() for _ in range(64)]  # a video is decoded once, however many threads want its frames


def spread_frames(count: int, n: int) -> list[int]:
    """Return the frames in the middle of min(n, count) equal parts of a video, as CoVR samples targets."""
    edges = np.linspace(0, count, min(n, count) + 1).astype(int).tolist()
    return [(start + stop - 1) // 2 for start, stop in pairwise(edges)]


def middle_frame(count: int) -> int:
    """Return the frame that stands for a query video in CoVR."""
    return count // 2


def count_frames(path: Path) -> int:
    """Return how many frames a video has: what its header says, or else by decoding.

    Raises:
        UserError: missing, no video, or without a frame; names the file.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            count: int = stream.frames or sum(1 for _ in container.decode(stream))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"can't read {path} as a video: {error}") from error
    if count < 1:
        raise UserError(f"{path} has no frame")
    return count


def decode_frames(path: str, wanted: Sequence[int]) -> list[np.ndarray]:
    """Decode some frames of a video, (H, W, 3) uint8 RGB each, from its start: seeking depends on the container.

    Raises:
        UserError: the video ends before, or can't be decoded.
    """
    import av

    frames: dict[int, np.ndarray] = {}
    try:
        with av.open(path) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if number >= max(wanted):
                    break
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"can't decode {path}: {error}") from error
    if lacking := sorted(set(wanted) - set(frames)):
        raise UserError(f"{path} ends before frame {lacking[0]}; is it complete?")
    return [frames[number] for number in wanted]


@lru_cache(maxsize=4)
def spread_of(path: str, n: int) -> list[np.ndarray]:
    """Keep the spread frames of the last few videos."""
    return decode_frames(path, spread_frames(count_frames(Path(path)), n))


def read_frame(path: str, key: str) -> bytes:
    """Return the frame at a key as a PPM file."""
    parts = key.split("/")
    is_swapped = parts[-1] == "bgr"
    parts = parts[: len(parts) - is_swapped]
    if parts == ["middle"]:
        (frame,) = decode_frames(path, [middle_frame(count_frames(Path(path)))])
    elif len(parts) == 2 and all(part.isdigit() for part in parts):
        with LOCKS[hash(path) % len(LOCKS)]:
            frame = spread_of(path, int(parts[1]))[int(parts[0])]
    else:
        raise UserError(f"{path}: '{key}' names no frame; expected 'middle' or 'i/n'")
    pixels = np.ascontiguousarray(frame[..., ::-1] if is_swapped else frame)
    return b"P6 %d %d 255\n" % (frame.shape[1], frame.shape[0]) + pixels.tobytes()
