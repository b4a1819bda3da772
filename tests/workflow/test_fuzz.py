"""Readers of files that others wrote, given broken ones: they read, or say what is wrong; nothing else comes out.

The default run is the same every time; `FUZZ=1000 pytest tests/workflow/test_fuzz.py` tries that many new ones of each.
"""

import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gcl.common.errors import UserError
from gcl.common.rows import load_yaml
from gcl.config.benchmarks import Benchmark
from gcl.config.datasets import Archive
from gcl.config.project import load
from gcl.config.published import read_published
from gcl.data.containers import read_member
from gcl.data.images import decode
from gcl.data.items import write_benchmark
from gcl.data.prepared import read_benchmark
from gcl.fetch.unpack import unpack
from gcl.infer.encoder import open_encoder
from gcl.infer.store import read_outputs
from gcl.models.weights.checkpoints import read_checkpoint, write_checkpoint
from gcl.prepare.benchmarks import reader_of
from gcl.prepare.pairs import reader_of_pairs
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import score
from support.arrays import SAME, unit_rows
from support.retrieval import write_model
from support.workflow import ROOT

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ", "25")),
    derandomize="FUZZ" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
ODD = [None, True, -1, 0, 2**70, 1.5, float("nan"), "", "\0", "../../x", "é" * 300, [], {}, [[]], {"a": [None]}]


@st.composite
def broken(draw, data):
    """Bytes with a few things cut, changed, repeated or put in."""
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        change = draw(st.sampled_from(["cut", "flip", "drop", "repeat", "insert"]))
        if change == "cut":
            del data[start:]
        elif change == "flip":
            data[start] ^= draw(st.integers(1, 255))
        elif change == "drop":
            del data[start:stop]
        elif change == "repeat":
            data[start:start] = data[start:stop]
        else:
            data[start:start] = draw(st.binary(max_size=12))
    return bytes(data)


@st.composite
def odd(draw, value):
    """A JSON value with one part replaced by something odd, or left out."""
    value = json.loads(json.dumps(value))
    here = value
    while isinstance(here, dict | list) and here:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys))
        if not isinstance(here[key], dict | list) or not here[key] or draw(st.booleans()):
            if draw(st.booleans()):
                here[key] = draw(st.sampled_from(ODD))
            else:
                del here[key]
            break
        here = here[key]
    return value


def read(action):
    """What an action returns, or None if it says what is wrong in a UserError that is worth reading."""
    try:
        return action()
    except UserError as error:
        said = str(error)
    assert len(said) > 10
    return None


@pytest.fixture(scope="module")
def rows():
    return load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks


BENCHMARKS = {
    "mbeir_first_fixture": ["query/test/mbeir_edis_task2_test.jsonl", "instructions/query_instructions.tsv",
                            "cand_pool/local/mbeir_oven_task6_cand_pool.jsonl",
                            "qrels/test/mbeir_cirr_task7_test_qrels.txt"],
    "mmeb_fixture": ["WebQA/test-00000-of-00001.parquet", "N24News/test-00000-of-00001.parquet"],
    "covr_fixture": ["webvid8m-covr_test.csv"],
    "cirr_fixture": ["captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"],
    "fashioniq_fixture": ["captions/cap.shirt.val.json", "image_splits/split.shirt.val.json"],
    "circo_fixture": ["annotations/val.json", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"],
    "m2kr_fixture": [
        "OKVQA_data/test-00000-of-00001.parquet", "MSMARCO_passages/test_passages-00000-of-00001.parquet",
    ],
    "mmdocir_fixture": ["MMDocIR_annotations.jsonl", "MMDocIR_layouts.parquet", "MMDocIR_pages.parquet"],
    "anycir_fixture": ["anycir.jsonl"],
    "tiir_fixture": ["documents.jsonl", "queries.jsonl", "qrels.jsonl"],
    "mixbench_fixture": ["OVEN/queries.parquet", "Google_WIT/mixed_corpus.parquet", "MSCOCO/qrels/qrels.tsv"],
}  # fmt: skip
FILES = [(name, path) for name, paths in BENCHMARKS.items() for path in paths]


@pytest.fixture(scope="module")
def copies(tmp_path_factory, rows):
    """A copy of each benchmark's folder, where files may be broken."""
    folder = tmp_path_factory.mktemp("copies")
    for name in BENCHMARKS:
        shutil.copytree(ROOT / "data" / rows[name].dataset, folder / name)
    return folder


def read_benchmark_files(copies, rows, name):
    row = rows[name]
    folder = copies / name
    images = folder / row.images.folder if row.images and row.images.dataset == row.dataset else folder
    return reader_of(row.reader).read(folder, images, row)


@pytest.mark.parametrize(("name", "path"), FILES)
@fuzzed
@given(data=st.data())
def test_annotations(copies, rows, name, path, data):
    original = (ROOT / "data" / rows[name].dataset / path).read_bytes()
    if path.endswith("json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(odd(json.loads(original)))).encode()
    elif path.endswith("jsonl") and data.draw(st.booleans()):
        lines = original.splitlines()
        content = b"\n".join([json.dumps(data.draw(odd(json.loads(lines[0])))).encode(), *lines[1:]])
    else:
        content = data.draw(broken(original))
    (copies / name / path).write_bytes(content)
    try:
        read(lambda: read_benchmark_files(copies, rows, name))
    finally:
        (copies / name / path).write_bytes(original)


@fuzzed
@given(data=st.data())
def test_a_config(data):
    value = load_yaml(ROOT / "config/config.yaml")
    read(lambda: load(data.draw(odd(value)), ROOT / "config"))


@pytest.mark.parametrize("name", ["backbones", "recipes", "benchmarks", "datasets", "published"])
@settings(fuzzed, max_examples=fuzzed.max_examples // 2)  # each reads all registries
@given(data=st.data())
def test_a_registry(tmp_path, name, data):
    for path in (ROOT / "config").glob("*.yaml"):
        shutil.copyfile(path, tmp_path / path.name)
    original = (ROOT / f"config/{name}.yaml").read_bytes()
    (tmp_path / f"{name}.yaml").write_bytes(data.draw(broken(original)))
    if name == "published":
        read(lambda: read_published(tmp_path / "published.yaml"))
    else:
        read(lambda: load(load_yaml(ROOT / "config/config.yaml"), tmp_path))


def test_a_tag_in_yaml_runs_nothing(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(f"!!python/object/apply:os.system ['touch {tmp_path}/pwned']\n")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        load_yaml(path)
    assert not (tmp_path / "pwned").exists()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A prepared benchmark, embeddings, a model and a run."""
    from gcl.data.items import Contents, Item, Listed, Qrel, Task

    folder, rng = tmp_path_factory.mktemp("scored"), np.random.default_rng(0)
    pool = [Item(f"c{k}", None, (f"{k}.jpg", f"{k + 1}.jpg"), (0.5, 0.5)) for k in range(5)]
    tables = {"query": [Item(f"q{k}", f"ask {k}", ()) for k in range(3)], "pool": pool}
    task = Task("t", "text", "image", "query", {"all": ["pool"], "own": ["pool"]}, ("own",))
    lists = [Listed("t", "own", f"q{k}", ["c1", "c2"]) for k in range(3)]
    (folder / "p").mkdir()
    write_benchmark(folder / "p", Contents(tables, [task], [Qrel("t", "q0", "c1")], lists), {"title": "x"}, SAME)
    write_model(folder / "e", folder / "o", unit_rows(rng, 6, 4), unit_rows(rng, 3, 4))
    retrieve(folder / "p", [folder / "e"], None, folder / "o", None, ["none"], 5, "cpu", None, folder / "run.parquet")
    return folder


PREPARED = ["items.parquet", "qrels.parquet", "lists.parquet", "excluded.parquet", "missing.parquet", "task.json"]


@pytest.mark.parametrize("name", [*(f"p/{n}" for n in PREPARED), "e/image.npy", "o/export.json", "run.parquet"])
@fuzzed
@given(data=st.data())
def test_what_stages_hand_on(scored, tmp_path, name, data):
    original = (scored / name).read_bytes()
    if name.endswith("json") and data.draw(st.booleans()):
        (scored / name).write_text(json.dumps(data.draw(odd(json.loads(original)))))
    else:
        (scored / name).write_bytes(data.draw(broken(original)))
    output = tmp_path / "out"
    try:
        if name == "run.parquet":
            read(lambda: score(scored / name, scored / "p", "b", "r", "x", ["Success@1"], 2, output))
        else:
            read(lambda: read_benchmark(scored / "p", lists=True))
            models = ([scored / "e"], None, scored / "o")
            read(lambda: retrieve(scored / "p", *models, None, ["none"], 5, "cpu", None, output))
    finally:
        (scored / name).write_bytes(original)
        if output.is_dir():
            shutil.rmtree(output)


@fuzzed
@given(data=st.data())
def test_arrays(tmp_path, data):
    np.save(tmp_path / "text.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "image.npy", np.ones((4, 3), np.float32))
    (tmp_path / "image.npy").write_bytes(data.draw(broken((tmp_path / "image.npy").read_bytes())))
    read(lambda: read_outputs([tmp_path]))


@fuzzed
@given(data=st.data())
def test_checkpoints(tmp_path, data):
    import torch

    write_checkpoint(tmp_path / "c", "heads.safetensors", {"a": torch.ones(2, 3)}, {"backbone": "x"}, [])
    name = data.draw(st.sampled_from(["checkpoint.json", "heads.safetensors"]))
    path = tmp_path / "c" / name
    original = path.read_bytes()
    if name.endswith("json") and data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(odd(json.loads(original)))))
    else:
        path.write_bytes(data.draw(broken(original)))
    read(lambda: read_checkpoint(tmp_path / "c", "x"))


@fuzzed
@given(data=st.data())
def test_models(tmp_path, data):
    about = {"graphs": {"image": {"file": "image.onnx"}}, "dtype": "float32", "clean": "none", "context": 8,
             "preprocess": {"size": 4, "resize": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}}  # fmt: skip
    (tmp_path / "export.json").write_text(json.dumps(data.draw(odd(about))))
    (tmp_path / "image.onnx").write_bytes(data.draw(st.binary(max_size=50)))
    (tmp_path / "tokenizer.json").write_bytes(data.draw(st.binary(max_size=50)))
    assert read(lambda: open_encoder(tmp_path, "cpu", 1)) is None


def encoded(form, mode="RGB", **options):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 40, 3), np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PICTURES = {
    "jpeg": encoded("JPEG"), "progressive": encoded("JPEG", progressive=True), "cmyk": encoded("JPEG", "CMYK"),
    "png": encoded("PNG", "RGBA"), "palette": encoded("PNG", "P"), "gif": encoded("GIF", "P"),
    "webp": encoded("WEBP"), "tiff": encoded("TIFF"), "bmp": encoded("BMP"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken TIFF files
@pytest.mark.parametrize("name", PICTURES)
@fuzzed
@given(data=st.data())
def test_pictures(name, data):
    image = read(lambda: decode(data.draw(broken(PICTURES[name])), name))
    assert image is None or image.mode == "RGB"


def tar_of(names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 100
            tar.addfile(info, io.BytesIO(b"x" * 100))
    return buffer.getvalue()


@fuzzed
@given(data=st.data())
def test_archives(tmp_path, data):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    (folder / "x.tar").write_bytes(data.draw(broken(tar_of(["a.jpg", "b/c.jpg"]))))
    read(lambda: unpack(Archive(parts=["x.tar"]), folder, {"x.tar": {"sha256": "x"}}))
    read(lambda: read_member(str(folder / "x.tar"), "a.jpg"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", b"x" * 1000)
    (folder / "x.zip").write_bytes(data.draw(broken(buffer.getvalue())))
    read(lambda: read_member(str(folder / "x.zip"), "a.jpg"))


@fuzzed
@given(data=st.data())
def test_pairs(tmp_path, data):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    csv = b'image,caption,url\na.jpg,a dog,x\nb.jpg,"two\nlines",y\n'
    form = data.draw(st.sampled_from(["csv", "tsv", "parquet", "json"]))
    if form == "json":
        name, reader = "blip_laion_cc_sbu_558k.json", "lcs558k"
        records = [
            {
                "id": "1",
                "image": "0/1.jpg",
                "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "dog"}],
            }
        ]
        content = json.dumps(data.draw(odd(records))).encode()
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        name, reader, buffer = "x.parquet", "auto", io.BytesIO()
        pq.write_table(pa.table({"jpg": [b"x"], "caption": ["dog"]}), buffer)
        content = data.draw(broken(buffer.getvalue()))
    else:
        name, reader = f"x.{form}", "auto"
        content = data.draw(broken(csv.replace(b",", b"\t") if form == "tsv" else csv))
    (folder / name).write_bytes(content)
    read(lambda: list(reader_of_pairs(reader).read(folder)))


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "two"}],
}
LINE = {"file_name": "a.jpg", "text": ["a dog", "a pet"]}


@fuzzed
@given(data=st.data())
def test_lists_of_images(tmp_path, data):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    reader = data.draw(st.sampled_from(["coco", "image_folder"]))
    name, record = ("captions.json", COCO) if reader == "coco" else ("metadata.jsonl", LINE)
    content = json.dumps(data.draw(odd(record))).encode()
    (folder / name).write_bytes(data.draw(st.sampled_from([content, data.draw(broken(content))])))
    read(lambda: list(reader_of_pairs(reader).read(folder)))


BEIR = {
    "corpus.jsonl": b'{"_id": "d1", "title": "Cats", "text": "purr"}\n{"_id": "d2", "image": "x.png"}\n',
    "queries.jsonl": b'{"_id": "q1", "text": "what purrs"}\n',
    "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td1\t1\n",
}


@fuzzed
@given(data=st.data())
def test_ones_own_judgements(tmp_path, data):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    (folder / "qrels").mkdir(parents=True)
    spoilt = data.draw(st.sampled_from(list(BEIR)))
    for name, content in BEIR.items():
        (folder / name).write_bytes(data.draw(broken(content)) if name == spoilt else content)
    row = Benchmark(reader="beir", split="test", title="x", measures=["R@5"], headline="R@5")
    read(lambda: reader_of("beir").read(folder, folder, row))
