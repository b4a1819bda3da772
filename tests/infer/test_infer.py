"""Embedding in parts: what earlier benchmarks have, shards, and going on after a stop; all equal to the plain way."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import gcl
from gcl.common.arrays import fuse, unit
from gcl.common.errors import UserError
from gcl.common.files import HELD
from gcl.common.rows import load_yaml
from gcl.config.paths import earlier, part_names, place, split_part, to_embed
from gcl.config.project import load
from gcl.data.images import decode, read_bytes
from gcl.data.items import Contents, Item, Qrel, Task, write_benchmark
from gcl.data.records import fused_keys, read_parquet
from gcl.infer import encoder, in_turns
from gcl.infer import infer as inferring
from gcl.infer import resumable as growing
from gcl.infer.infer import Shard, infer
from gcl.infer.store import Stacked, read_outputs
from gcl.prepare.prepare import prepare_pairs
from gcl.prepare.share import share
from gcl.retrieve.retrieve import retrieve
from support.arrays import HASHES
from support.training import exported
from support.workflow import ROOT


@pytest.fixture(scope="module")
def universe(tmp_path_factory):
    """Locations of pictures, and training pairs."""
    folder = tmp_path_factory.mktemp("universe")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 30, folder / "pairs")
    return read_parquet(folder / "pairs/locations.parquet")["location"].to_pylist(), folder / "pairs"


@pytest.fixture(scope="module", params=["clip", "in_turns"])
def model(request, tmp_path_factory, universe):
    """A tiny exported model, one of each kind of fusion; VISTA's also reads texts and images in turns."""
    return exported(request.param, tmp_path_factory.mktemp(request.param), universe[1])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Batches of one, joined in twos, and chunks of four, so that a dozen items make several."""
    monkeypatch.setattr(encoder, "BATCHES", {"cpu": 1})
    monkeypatch.setattr(inferring, "JOINED", 2)
    monkeypatch.setattr(inferring, "CHUNK", 4)
    monkeypatch.setattr(in_turns, "ITEMS", 2)


def benchmark(folder, rng, locations, name):
    """Write a benchmark of random items over a few images and texts."""

    def item(number, kind):
        text = f"{'word ' * int(rng.integers(0, 6))}number {rng.integers(8)}" if kind != "image" else None
        images = tuple(rng.choice(locations[:14], 2 if rng.random() < 0.4 else 1).tolist()) if kind != "text" else ()
        places = tuple(sorted(rng.integers(0, len(text) + 1, 2).tolist())) if text and len(images) == 2 else ()
        return Item(f"{name}{number}", text, images, places=places)

    kinds = ["image", "text", "image_text"]
    tables = {"query": [item(k, "text") for k in range(4)]}
    tables |= {f"pool_{kind}": [item(100 * i + k + 4, kind) for k in range(6)] for i, kind in enumerate(kinds)}
    task = Task("t", "text", "image", "query", {"global": [f"pool_{kind}" for kind in kinds]})
    contents = Contents(tables, [task], [Qrel("t", f"{name}0", tables["pool_image"][0].item_id)])
    folder.mkdir(parents=True)
    write_benchmark(folder, contents, {}, HASHES)
    return folder


def embed(model, prepared, output, shard=Shard()):  # noqa: B008
    infer(model, prepared, None, "cpu", 1, False, False, shard, output)
    return output


def rows_of(outputs):
    """Every row of every array, also of a stack."""
    return {name: array[:] for name, array in outputs._asdict().items() if array is not None}


def ranked(path):
    return [(r["query_id"], r["candidate_id"], r["rank"]) for r in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("seed", range(3))
def test_what_earlier_benchmarks_have_is_not_embedded_again(model, universe, tmp_path, seed):
    rng = np.random.default_rng(seed)
    prepared = [benchmark(tmp_path / f"p{k}", rng, universe[0], "abc"[k]) for k in range(3)]
    embedded, outputs = [prepared[0]], [embed(model, prepared[0], tmp_path / "e0")]
    for k in (1, 2):
        share(embedded, prepared[k], tmp_path / f"s{k}")
        embedded.append(tmp_path / f"s{k}")
        outputs.append(embed(model, tmp_path / f"s{k}", tmp_path / f"e{k}"))
        whole = read_outputs([embed(model, prepared[k], tmp_path / f"w{k}")])
        found = read_outputs(outputs, tmp_path / f"s{k}")
        assert len(found.image) + len(found.text) < sum(
            len(np.load(tmp_path / f"e{j}/{name}.npy")) for j in range(k + 1) for name in ("image", "text")
        )
        for name, expected in rows_of(whole).items():
            np.testing.assert_allclose(rows_of(found)[name], expected, atol=2e-6)
        for folders, shared, name in (
            (outputs, tmp_path / f"s{k}", "shared"),
            ([tmp_path / f"w{k}"], None, "whole"),
        ):
            retrieve(
                prepared[k], folders, shared, model, None, ["none", "center_zscore"], 9, "cpu", None, tmp_path / name
            )
        assert ranked(tmp_path / "shared") == ranked(tmp_path / "whole")
    contents = [read_parquet(p / "texts.parquet")["text"].to_pylist() for p in prepared]
    assert sum(len(np.load(e / "text.npy")) for e in outputs) == len(set().union(*contents))
    if (outputs[0] / "image_text.npy").exists():
        together = set()
        for p, texts in zip(prepared, contents, strict=True):
            shas = read_parquet(p / "images.parquet")["sha256"].to_pylist()
            together |= {(shas[i], texts[t]) for i, t in fused_keys(p).tolist()}
        assert sum(len(np.load(e / "image_text.npy")) for e in outputs) == len(together)


def test_shards_make_the_same_bytes_whatever_their_number(model, universe, tmp_path):
    prepared = benchmark(tmp_path / "p", np.random.default_rng(3), universe[0], "a")
    whole = rows_of(read_outputs([embed(model, prepared, tmp_path / "whole")]))
    for count in (2, 7):
        folders = [embed(model, prepared, tmp_path / f"{count}/{k}", Shard(k, count)) for k in range(count)]
        for name, array in rows_of(read_outputs(folders)).items():
            assert (array == whole[name]).all()
        retrieve(prepared, folders, None, model, None, ["none"], 9, "cpu", None, tmp_path / f"run{count}")
    assert (tmp_path / "run2").read_bytes() == (tmp_path / "run7").read_bytes()


def test_a_shard_that_is_none_is_refused(model, universe, tmp_path):
    with pytest.raises(ValueError, match="--shard 2 2: expected a number from 0 to 1"):
        embed(model, universe[1], tmp_path / "e", Shard(2, 2))


class StoppedError(Exception):
    """A stand-in for whatever ends a process."""


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(model, universe, tmp_path, monkeypatch, after):
    prepared = benchmark(tmp_path / "p", np.random.default_rng(4), universe[0], "a")
    expected = {path.name: path.read_bytes() for path in embed(model, prepared, tmp_path / "whole").iterdir()}
    append, calls = growing.Growing.append, []

    def stopping(self, *arguments):
        if len(calls) == after:
            with self.path("text").open("r+b") as file:  # half a block was written
                file.seek(0, 2)
                file.write(b"half")
            raise StoppedError
        calls.append(arguments[:2])
        append(self, *arguments)

    monkeypatch.setattr(growing.Growing, "append", stopping)
    with pytest.raises(StoppedError):
        embed(model, prepared, tmp_path / "e")
    assert not (tmp_path / "e").exists()
    again = []
    monkeypatch.setattr(
        growing.Growing, "append", lambda self, *arguments: (again.append(arguments[:2]), append(self, *arguments))
    )
    embed(model, prepared, tmp_path / "e")
    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == expected
    assert not set(calls) & set(again)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_begun_for_something_else_is_thrown_away(tmp_path):
    first = growing.Growing(tmp_path / "g", "a", {"x": (4, 2)})
    first.append("x", 2, {"x": np.ones((2, 2), np.float32)})
    half = tmp_path / "g/.progress.json.x"  # what a signal that can't be caught leaves
    half.mkdir()
    (half / HELD).touch()
    assert growing.Growing(tmp_path / "g", "a", {"x": (4, 2)}).done("x") == 2
    assert not half.exists()
    other = growing.Growing(tmp_path / "g", "b", {"x": (1, 2)})
    assert other.done("x") == 0
    with pytest.raises(ValueError, match=r"\{'x': 0\} rows of \{'x': \(1, 2\)\} were written"):
        other.check()
    other.append("x", 1, {"x": np.full((1, 2), 3, np.float32)})
    other.check()
    assert np.load(tmp_path / "g/x.npy").tolist() == [[3, 3]]


def test_arrays_that_will_not_fit_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"the arrays take 4000000\.00 GB, but .* has \d+\.\d+ GB free"):
        growing.Growing(tmp_path / "g", "a", {"x": (10**13, 100)})


def test_rows_of_a_stack_come_in_the_order_that_is_asked_for():
    parts = [np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((0, 2), np.float32), np.full((2, 2), 9, np.float32)]
    stack = Stacked(parts)
    assert stack.shape == (5, 2)
    assert stack[np.array([4, 0, 2])].tolist() == [[9, 9], [0, 1], [4, 5]]
    assert stack[1:4].tolist() == [[2, 3], [4, 5], [9, 9]]
    picked = Stacked(parts, np.array([3, 3, 1]))
    assert len(picked) == 3
    assert picked[:].tolist() == [[9, 9], [9, 9], [2, 3]]


def test_widths_that_differ_are_refused(tmp_path):
    for k, width in enumerate((2, 3)):
        (tmp_path / str(k)).mkdir()
        for name in ("image", "text"):
            np.save(tmp_path / f"{k}/{name}.npy", np.zeros((1, width), np.float32))
    with pytest.raises(ValueError, match="are they one model's"):
        read_outputs([tmp_path / "0", tmp_path / "1"])


def test_only_benchmarks_with_a_data_set_in_common_share():
    config = load_yaml(ROOT / "config/config.yaml") | load_yaml(ROOT / "config/paper.yaml")
    project = load(config | {"shards": {"mbeir": 2}}, ROOT / "config")
    assert earlier(project, "mbeir") == []
    assert earlier(project, "mmeb") == []
    assert earlier(project, "fashioniq") == ["mbeir", "mbeir_first", "cirr"]
    assert earlier(project, "covr_middle") == ["covr"]
    assert to_embed(project, "mbeir") == "results_paper/prepared/mbeir"
    assert to_embed(project, "mbeir_first") == "results_paper/shared/mbeir_first"
    assert part_names(project, "mbeir") == ["mbeir.0of2", "mbeir.1of2"]
    assert split_part("mbeir.1of2") == ("mbeir", 1, 2)
    assert split_part("mbeir") == ("mbeir", 0, 1)
    assert split_part("mbeir.v2") == ("mbeir.v2", 0, 1)
    assert split_part("mbeir.v2.1of2") == ("mbeir.v2", 1, 2)
    found = place(project, "clip_b32", "released", "mbeir_first")
    assert [folder.name for folder in found.embeddings] == ["mbeir.0of2", "mbeir.1of2", "mbeir_first"]
    assert str(found.shared) == "results_paper/shared/mbeir_first"
    assert place(project, "clip_b32", "released", "mmeb").shared is None


def test_shards_of_an_unknown_benchmark_are_refused():
    config = load_yaml(ROOT / "config/config.yaml") | {"shards": {"clipart": 2}}
    with pytest.raises(ValueError, match=r"unknown benchmark to shard 'clipart' \(did you mean 'clipart9'\?\)"):
        load(config, ROOT / "config")


def test_a_loaded_model_embeds_as_the_stage_does(model, universe, tmp_path):
    """Images as paths, bytes, PIL images and arrays; texts; both; against what `infer` and `fuse` make of them."""
    locations, _ = universe
    prepared = benchmark(tmp_path / "p", np.random.default_rng(5), locations, "a")
    outputs = read_outputs([embed(model, prepared, tmp_path / "e")])
    shown = read_parquet(prepared / "locations.parquet")["location"].to_pylist()
    texts = read_parquet(prepared / "texts.parquet")["text"].to_pylist()
    loaded = gcl.load(model, "cpu", 1)
    np.testing.assert_allclose(loaded.encode(images=[read_bytes(x) for x in shown]), unit(outputs.image), atol=1e-5)
    np.testing.assert_allclose(loaded.encode(texts=texts), unit(outputs.text), atol=1e-5)
    picture = decode(read_bytes(shown[0]), "x")
    forms = loaded.encode(images=[picture, np.asarray(picture), picture.convert("RGBA")])
    np.testing.assert_allclose(forms, unit(outputs.image[[0, 0, 0]]), atol=1e-5)
    keys = fused_keys(prepared)[:3]
    mixed = loaded.encode(
        images=[None, *(read_bytes(shown[i]) for i in keys[:, 0])], texts=[texts[0], *(texts[t] for t in keys[:, 1])]
    )
    fused = unit(outputs.fused[:3]) if outputs.fused is not None else None
    expected = fuse(outputs.image[keys[:, 0]], outputs.text[keys[:, 1]], "sum_raw") if fused is None else fused
    np.testing.assert_allclose(mixed, np.concatenate([unit(outputs.text[:1]), expected]), atol=1e-5)
    assert loaded.encode(images=[]).shape == (0, loaded.width)


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([None], [None], "item 0 has neither image nor text"),
        ([b"x"], ["a", "b"], "1 images and 2 texts"),
        ([b"no image"], None, "can't decode image item 0"),
        (["no/such.png"], None, r"no/such\.png is missing"),
        ([3], None, "item 0 is int, expected a path"),
        ([np.zeros((2, 2), np.uint8)], None, r"item 0 is an array \(2, 2\) of uint8"),
    ],
)
def test_what_can_not_be_embedded_is_named(model, images, texts, message):
    with pytest.raises(UserError, match=message):
        gcl.load(model, "cpu", 1).encode(images, texts)


def test_an_image_that_was_swapped_since_prepare_is_an_error(model, universe, tmp_path):
    """It would be embedded under the hash of the old one. So would an image of the same relative path elsewhere."""
    locations, _ = universe
    (tmp_path / "a.png").write_bytes(read_bytes(locations[0]))
    items = {"query": [Item("q", "text", ())], "pool": [Item("c", None, (str(tmp_path / "a.png"),))]}
    task = Task("t", "text", "image", "query", {"local": ["pool"]})
    (tmp_path / "p").mkdir()
    digests = {location: HASHES[location] for location in [str(tmp_path / "a.png")]}
    write_benchmark(tmp_path / "p", Contents(items, [task], [Qrel("t", "q", "c")]), {}, digests)
    embed(model, tmp_path / "p", tmp_path / "e")
    (tmp_path / "a.png").write_bytes(read_bytes(locations[1]))
    with pytest.raises(UserError, match=r"a\.png is another image than `prepare` read \(relative to "):
        embed(model, tmp_path / "p", tmp_path / "again")


def test_workers_change_no_byte(model, universe, tmp_path):
    for threads in (1, 3):
        infer(model, universe[1], None, "cpu", threads, True, False, (0, 1), tmp_path / f"{threads}")
    names = {path.name for path in (tmp_path / "1").glob("*.npy")}
    assert {"image.npy", "image_flipped.npy", "text.npy"} <= names
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()
