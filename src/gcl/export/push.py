"""Put a published model on the Hugging Face hub.

In:  a folder that `publish` wrote, with its model card (README.md).
Out: a repository there. Without --yes nothing is sent: the files and where they would go are listed. $HF_ENDPOINT and
     the token of `hf auth login` (or $HF_TOKEN) are honoured.
"""

import logging
from pathlib import Path
from typing import Any

from gcl.common.command import parser, run
from gcl.common.errors import UserError

log = logging.getLogger(__name__)

WEIGHTS = (".safetensors", ".onnx")
LEFT_OUT = (".lock", "model.json")  # what other commands keep beside a model


def files_of(folder: Path) -> list[Path]:
    """List what would be sent.

    Raises:
        UserError: no such folder, no card, no weights, or links that lead elsewhere.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; `gcl publish` writes one")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in LEFT_OUT)
    if not (folder / "README.md").exists():
        raise UserError(f"{folder} has no model card (README.md); `gcl publish` writes one")
    if not any(path.suffix in WEIGHTS for path in paths):
        raise UserError(f"{folder} holds no weights ({', '.join(WEIGHTS)})")
    if away := next((path for path in paths if not path.resolve().is_relative_to(folder.resolve())), None):
        raise UserError(f"{away} is a link that leads out of {folder}; put the file there")
    return paths


def push(folder: Path, repository: str, is_private: bool, is_real: bool, message: str) -> dict[str, Any]:
    """Send a folder, or say what would be sent.

    Raises:
        UserError: as files_of, or the hub refuses.
    """
    from huggingface_hub import HfApi

    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"the repository is {repository!r}, expected ORGANISATION/NAME")
    api, paths = HfApi(), files_of(folder)
    for path in paths:
        print(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}")
    total = sum(path.stat().st_size for path in paths)
    kind = "private" if is_private else "public"
    print(f"{total:>12,}  bytes to {api.endpoint}/{repository} ({kind})")
    if not is_real:
        print("nothing was sent: add --yes")
        return {"sent": False, "bytes": total}
    try:
        api.create_repo(repository, private=is_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message,
            allow_patterns=[str(path.relative_to(folder)) for path in paths],
        )  # fmt: skip
    except Exception as error:  # its own, those of its HTTP library, and the system's
        raise UserError(
            f"{api.endpoint} did not take {folder} for {repository}: {error}; are you logged in (`hf auth login`), and "
            "is it yours to write? What was sent is kept there: run the same again"
        ) from error
    print(commit.commit_url)
    return {"sent": True, "bytes": total, "commit": commit.oid}


def main() -> None:
    """Run from the command line."""
    options = parser("push", __doc__, "my_model me/my_model --yes")
    options.add_argument("folder", type=Path, help="folder that `publish` wrote")
    options.add_argument("repository", metavar="ORG/NAME", help="repository on the hub")
    options.add_argument("--private", dest="is_private", action="store_true", help="make it private")
    options.add_argument("--yes", dest="is_real", action="store_true", help="send it")
    options.add_argument("--message", default="Upload by gcl push", help="of the commit")
    run(options, push)


if __name__ == "__main__":
    main()
