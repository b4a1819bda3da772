import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from gcl.config.backbones import Preprocess
from gcl.config.benchmarks import Benchmark
from gcl.data import images
from gcl.data.images import decode, load, read_bytes, to_array
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.data.records import Pair, read_pairs
from gcl.prepare.benchmarks import Reader
from gcl.prepare.pairs import PairReader
from gcl.prepare.prepare import prepare_benchmark, prepare_pairs

HOW = Preprocess(size=8, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def picture(rng):
    return Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8))


def test_pixels_are_normalised_channel_first():
    array = to_array(Image.new("RGB", (8, 8), (255, 0, 128)), HOW)
    assert array.shape == (3, 8, 8)
    np.testing.assert_allclose(array[:, 0, 0], [2, -2, (128 / 255 - 0.5) / 0.25], atol=1e-6)


def test_shortest_crop_keeps_the_middle():
    wide = Image.new("RGB", (32, 8), "white")
    wide.paste((255, 0, 0), (12, 0, 20, 8))
    array = to_array(wide, Preprocess(size=8, resize="shortest_crop", mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_allclose(array[:, 4, 4], [1, 0, 0], atol=1e-6)


def test_transparency_becomes_white():
    assert decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))), "x").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    form = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(encoded(Image.new(mode, (4, 4)), form), "x").mode == "RGB"


def test_sixteen_bits_keep_their_brightness():
    grey = Image.fromarray(np.array([[0, 257, 128 * 257 + 256, 65535]], np.uint16))
    assert np.asarray(decode(encoded(grey), "x"))[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("box", "rows", "columns"), [("10/20/40/40", (8, 24), (3, 15)), ("0/99/1/1", (40, 41), (0, 1))]
)
def test_a_part_of_an_image_is_in_percent_of_its_sides(tmp_path, picture, box, rows, columns):
    """Left, top, width and height; at least a pixel, black beyond the edge."""
    (tmp_path / "a.png").write_bytes(encoded(picture))
    found = np.asarray(decode(read_bytes(f"{tmp_path}/a.png{images.PART}{box}"), "x"))
    whole = np.pad(np.asarray(picture), ((0, 1), (0, 0), (0, 0)))
    np.testing.assert_array_equal(found, whole[slice(*rows), slice(*columns)])


@pytest.mark.parametrize(("cut", "reason"), [(200, "can't decode image x"), (0, "can't decode image x")])
def test_a_truncated_image_is_named(picture, cut, reason):
    with pytest.raises(ValueError, match=rf"{reason} \({cut} bytes\)"):
        decode(encoded(picture)[:cut], "x")


def test_an_image_that_claims_too_many_pixels_is_refused_before_decoding(monkeypatch, picture):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="40x30|30x40"):
        decode(encoded(picture), "x")


def test_images_are_read_in_place_from_a_zip(tmp_path, picture):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("00000/1.png", encoded(picture))
    location = f"{tmp_path}/images.zip::00000/1.png"
    np.testing.assert_array_equal(load(location, HOW), to_array(picture, HOW))
    with pytest.raises(ValueError, match="has no image '00000/2.png'"):
        read_bytes(f"{tmp_path}/images.zip::00000/2.png")


def read_toy(monkeypatch, read):
    readers = {"toy": PairReader(read, lambda listing: False)}
    monkeypatch.setitem(prepare_pairs.__globals__, "reader_of_pairs", readers.__getitem__)


def broken_reader(tmp_path, picture, n_broken):
    paths = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        path.write_bytes(encoded(picture)[: 100 if i < n_broken else None])
        paths.append(str(path))
    return lambda folder: (Pair(str(i), p, (f"caption {i}",)) for i, p in enumerate(paths))


def test_broken_training_images_are_listed_and_bounded(tmp_path, picture, monkeypatch):
    read_toy(monkeypatch, broken_reader(tmp_path, picture, 2))
    prepare_pairs(tmp_path, "toy", 0.2, None, tmp_path / "out")
    lines = (tmp_path / "out/rejects.csv").read_text().splitlines()
    assert len(lines) == 3
    assert "0.png" in lines[1]
    with pytest.raises(ValueError, match=r"2 of 10 pairs are unusable, more than reject_limit 10.0%"):
        prepare_pairs(tmp_path, "toy", 0.1, None, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_a_pair_that_occurs_twice_is_kept_once(tmp_path, picture, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded(picture))
    pairs = [Pair(n, str(tmp_path / "x.png"), (text,)) for n, text in (("a", "one"), ("b", "two"), ("c", "one "))]
    read_toy(monkeypatch, lambda folder: iter(pairs))
    prepare_pairs(tmp_path, "toy", 0.0, None, tmp_path / "out")
    assert len(read_pairs(tmp_path / "out").image_rows) == 2
    assert "c," in (tmp_path / "out/rejects.csv").read_text()
    assert "the same image and caption as a" in (tmp_path / "out/rejects.csv").read_text()


def test_a_broken_benchmark_image_is_fatal(tmp_path, picture, monkeypatch):
    (tmp_path / "x.png").write_bytes(encoded(picture)[:50])
    items = {"query": [Item("q", "text", ())], "pool": [Item("c", None, (str(tmp_path / "x.png"),))]}
    task = Task("t", "text", "image", "query", {"local": ["pool"]})
    toy = Reader(lambda *_: Contents(items, [task], [Qrel("t", "q", "c")]), dict)
    monkeypatch.setitem(prepare_benchmark.__globals__, "reader_of", {"toy": toy}.get)
    row = Benchmark(dataset="d", reader="toy", split="s", title="t", measures=["Success@1"], headline="Success@1")
    with pytest.raises(ValueError, match=r"1 items of the benchmark are unusable, more than .* 0.0%.*\n.*x\.png"):
        prepare_benchmark(tmp_path, tmp_path, row, None, 2, tmp_path / "out")


def test_a_large_jpeg_is_decoded_at_a_reduced_size_to_nearly_the_same_pixels():
    shade = np.linspace(0, 255, 400).astype(np.uint8)
    large = Image.fromarray(
        np.dstack([np.tile(shade, (300, 1)), np.tile(shade[:300, None], (1, 400)), 0 * np.tile(shade, (300, 1))])
    )
    data = encoded(large, "JPEG")
    how = Preprocess(size=32, resize="shortest_crop", mean=(0, 0, 0), std=(1, 1, 1))
    assert decode(data, "x", 64).size == (100, 75)  # the least that keeps 64 at a half, a quarter or an eighth
    assert decode(data, "x", 128).size == (200, 150)
    difference = np.abs(to_array(decode(data, "x", 64), how) - to_array(decode(data, "x"), how)) * 255
    assert difference.mean() < 0.5
    assert difference.max() < 5
    assert decode(encoded(large), "x", 64).size == (400, 300)  # not of PNG
