"""Lay out the stamps of Tux Paint as a folder of pairs: drawings and photographs, each with a line that names it.

Source: Debian's package tuxpaint-stamps-default 2022.06.04-1 (GPL-2), unpacked by

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps

In:  the unpacked package.
Out: data/tuxpaint/<group>/<stamp>.png and .txt: the first line of the stamp's text, which is English; its
     translations are left out, and so are drawings in SVG.
"""

import shutil
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path


def lay_out(package: Path, output: Path) -> None:
    """Write the folder of pairs.

    Raises:
        UserError: the package holds no stamps.
    """
    stamps = package / "usr/share/tuxpaint/stamps"
    pictures = sorted(path for path in stamps.rglob("*.png") if path.with_suffix(".txt").exists())
    if not pictures:
        raise UserError(f"{stamps} holds no stamp; is {package} the unpacked package?")
    with atomic_path(output) as folder:
        for picture in pictures:
            target = folder / picture.relative_to(stamps)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
            first = picture.with_suffix(".txt").read_text(encoding="utf-8").splitlines()[0]
            target.with_suffix(".txt").write_text(first.strip() + "\n", encoding="utf-8")
    print(f"{len(pictures)} pairs in {output}")


def main() -> None:
    """Run from the command line."""
    options = parser("tuxpaint", __doc__, "stamps")
    options.add_argument("package", type=Path, help="folder that dpkg-deb -x made")
    options.add_argument("--output", type=Path, default=Path("data/tuxpaint"), help="(data/tuxpaint)")
    run(options, lay_out)


if __name__ == "__main__":
    main()
