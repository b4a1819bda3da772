"""Input that means harm, or looks as if: each attack fails, with a message that names it."""

import io
import struct
import subprocess
import tarfile
import threading
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from gcl.common.rows import load_yaml
from gcl.config.datasets import Archive, File
from gcl.config.project import load
from gcl.data import containers as packed
from gcl.data.containers import read_member
from gcl.data.images import decode
from gcl.fetch.fetch import fetch_file
from gcl.fetch.unpack import unpack
from gcl.infer.session import open_session
from support.workflow import ROOT, copy_working_tree, snakemake


def png_header(width, height):
    """A PNG file that says how large it is and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_an_image_of_623_megapixels_is_refused_before_it_is_decoded():
    with pytest.raises(ValueError, match=r"image bomb .*623000000 pixels"):
        decode(png_header(25000, 24920), "bomb")


def saved(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_an_image_51200_pixels_wide_is_fine():
    data = saved(Image.new("RGB", (51200, 256), "red"), "JPEG")
    assert decode(data, "wide").size == (51200, 256)


def test_a_cut_progressive_jpeg_is_an_error_not_half_a_picture():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(pixels), "JPEG", progressive=True)
    with pytest.raises(ValueError, match="can't decode image cut"):
        decode(data[: len(data) // 2], "cut")


def test_sixteen_bits_keep_their_shades():
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = np.asarray(decode(saved(Image.fromarray(grey), "PNG"), "grey"))
    assert (image == (grey // 257)[..., None]).all()


def test_of_an_animation_the_first_frame_counts_and_cmyk_becomes_rgb():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, "gif").getpixel((0, 0)) == (255, 0, 0)
    cmyk = decode(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100), "cmyk")
    assert cmyk.mode == "RGB"
    assert cmyk.getpixel((0, 0))[0] > 200 > 60 > cmyk.getpixel((0, 0))[2]


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE"])
def test_links_devices_and_pipes_of_an_archive_stay_out(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("inner")
        info.type, info.linkname = getattr(tarfile, kind), "/etc/passwd"
        tar.addfile(info)
    about = unpack(Archive(parts=["x.tar"]), tmp_path, {"x.tar": {"sha256": "x"}})
    assert about["skipped"] == 1
    assert not (tmp_path / "inner").is_symlink()
    assert not (tmp_path / "inner").exists()


def test_a_member_of_a_zip_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MAX_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(1_000_000))
    assert (tmp_path / "x.zip").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"member 'bomb\.jpg' unpacks to more than 10,000 bytes"):
        read_member(str(tmp_path / "x.zip"), "bomb.jpg")


def model_with_external_data(folder, location):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4, np.float32).tobytes(), raw=True)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["features"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [4])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert onnx.load(folder / "m.onnx", load_external_data=False).graph.initializer[0].external_data
    return folder / "m.onnx"


@pytest.mark.parametrize("place", ["../secret.bin", "absolute", "link"])
def test_a_graph_that_reads_outside_its_folder_is_refused(tmp_path, place):
    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    location = {"absolute": str(tmp_path / "secret.bin"), "link": "inner.bin"}.get(place, place)
    if place == "link":
        (folder / "inner.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ValueError, match="can't open ONNX graph"):
        open_session(model_with_external_data(folder, location), "cpu", 1)


class Elsewhere(BaseHTTPRequestHandler):
    """Sends every request to another server, which has other bytes."""

    target = ""

    def do_GET(self):
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"evil")

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("target", ["/weights", "file:///etc/passwd", "gopher://127.0.0.1/x"])
def test_a_server_that_sends_elsewhere_delivers_nothing(tmp_path, address, target):
    Elsewhere.target = address + target if target.startswith("/") else target
    file = File(path="w.bin", urls=[f"{address}/moved"], bytes=4, sha256="0" * 64)
    with pytest.raises(ValueError, match="no source delivered"):
        fetch_file("x", file, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".part"] == []


@pytest.mark.parametrize("name", ["$(touch pwned)", "a b", "a'b", "../up", "a/b", "-rf", ""])
def test_a_name_that_is_no_name_is_refused(tmp_path, name):
    for path in (ROOT / "config").glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    rows = load_yaml(ROOT / "config/recipes.yaml")
    (tmp_path / "recipes.yaml").write_text(yaml.safe_dump(rows | {name: rows["cl"]}))
    with pytest.raises(ValueError, match=r"recipes\.yaml: name .* expected letters, digits, _, - and \. only"):
        load(load_yaml(ROOT / "config/config.yaml"), tmp_path)


def test_a_folder_of_results_may_be_called_anything(tmp_path):
    clone = copy_working_tree(tmp_path / 'it\'s a "clone" $(touch pwned)')
    results = "res ults' \"$(touch pwned) ; touch pwned"
    overlay = yaml.safe_load((ROOT / "config/smoke.yaml").read_text()) | {"results": results}
    (clone / "odd.yaml").write_text(yaml.safe_dump(overlay))
    target = f"{results}/prepared/clipart9"
    snakemake(clone, "--cores", "1", "--configfile", "odd.yaml", "--", target)
    assert (clone / target / "items.parquet").exists()
    assert not [*tmp_path.rglob("pwned")]


def test_what_git_tracks_holds_no_pickle():
    """Weights come as safetensors; anything that runs code when it is loaded would be no data."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ".npz"))]
