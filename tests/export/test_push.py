"""gcl push against a hub on loopback that keeps what it is sent."""

import os
import subprocess
import sys

import pytest

from support.hub import receiving


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "published"
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlibrary_name: gcl-retrieval\n---\n# a model\n")
    (folder / "model.safetensors").write_bytes(b"\1" * 2000)
    (folder / "deep/tokenizer.json").write_text("{}")
    (folder / "model.json").write_text("of another command")
    return folder


def push(folder, url, *arguments, home, ok=True):
    environment = os.environ | {
        "HF_ENDPOINT": url,
        "HF_TOKEN": "hf_test",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "gcl.export.push", str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == ok, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if ok else done.stderr


def test_nothing_is_sent_without_yes(published, tmp_path):
    with receiving() as hub:
        said = push(published, hub.url, "me/my_model", home=tmp_path)
        assert hub.files == {}
        assert hub.requests == []
    assert "nothing was sent: add --yes" in said
    assert "2,000  model.safetensors" in said
    assert f"{hub.url}/me/my_model (public)" in said


def test_every_file_arrives_small_and_large(published, tmp_path):
    with receiving() as hub:
        said = push(published, hub.url, "me/my_model", "--yes", "--private", home=tmp_path)
    assert hub.files == {
        "README.md": (published / "README.md").read_bytes(),
        "model.safetensors": b"\1" * 2000,
        "deep/tokenizer.json": b"{}",
    }
    assert hub.created == {"name": "my_model", "organization": "me", "visibility": "private"}
    assert f"{hub.url}/me/my_model/commit/" in said


def test_a_refusal_is_said(published, tmp_path):
    with receiving(refuse=True) as hub:
        said = push(published, hub.url, "me/my_model", "--yes", home=tmp_path, ok=False)
    assert "did not take" in said
    assert "are you logged in" in said


@pytest.mark.parametrize(
    ("break_it", "repository", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "me/x", "has no model card"),
        (lambda folder: (folder / "model.safetensors").unlink(), "me/x", "holds no weights"),
        (lambda folder: (folder / "out.json").symlink_to("/etc/hostname"), "me/x", "leads out of"),
        (lambda folder: None, "x", "expected ORGANISATION/NAME"),
    ],
)
def test_what_should_not_be_sent_is_refused(published, tmp_path, break_it, repository, message):
    break_it(published)
    assert message in push(published, "http://127.0.0.1:9", repository, home=tmp_path, ok=False)
