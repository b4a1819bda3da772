"""The readers of M-BEIR, MMEB, CoVR, CIRR, FashionIQ, CIRCO and MixBench, on small data sets in the official layouts."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcl.common.rows import load_yaml
from gcl.config.datasets import Archive
from gcl.config.project import load
from gcl.data.annotations import clean_edit
from gcl.data.images import decode, read_bytes
from gcl.data.prepared import read_benchmark
from gcl.data.videos import middle_frame, spread_frames
from gcl.fetch.unpack import unpack
from gcl.prepare.benchmarks.cirr import read_cirr
from gcl.prepare.benchmarks.covr import frame_weights, read_covr
from gcl.prepare.benchmarks.mbeir import choose_prompt, clean, prompted, read_mbeir, read_prompts
from gcl.prepare.benchmarks.mmeb import read_mmeb, without_placeholder
from gcl.prepare.prepare import prepare_benchmark
from support.fixtures import write_all
from support.workflow import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The fixtures' folder, archives unpacked."""
    folder = tmp_path_factory.mktemp("data")
    write_all(folder)
    for name, archive in (
        ("mbeir_images_fixture", Archive(parts=[f"mbeir_images.tar.gz.part-0{k}" for k in range(3)])),
        ("mmeb_images_fixture", Archive(parts=["mmeb_v1.tar.gz"], strip=1)),
    ):
        unpack(archive, folder / name, {part: {"sha256": part} for part in archive.parts})
    return folder


@pytest.fixture(scope="module")
def rows():
    return load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks


def folders(data, row):
    images = data / row.images.dataset / row.images.folder if row.images else data / row.dataset
    return data / row.dataset, images


def prepared(data, row, output):
    prepare_benchmark(*folders(data, row), row, None, 2, output)
    return read_benchmark(output, lists=True)


def edited(data, tmp_path, path, change):
    """A copy of the M-BEIR fixture with one file changed."""
    copy = tmp_path / "mbeir"
    shutil.copytree(data / "mbeir_fixture", copy)
    text = (copy / path).read_text()
    (copy / path).write_text(change(text))
    return copy


def with_options(row, **options):
    return type(row)(**{**{f: getattr(row, f) for f in row.__dataclass_fields__}, "options": row.options | options})


def test_the_shipped_fixtures_are_what_the_script_writes(data):
    names = [p.relative_to(data) for p in data.rglob("*") if p.is_file()]
    made = [n for n in names if not {"mbeir_images", "Pictures", ".unpacked"} & set(n.parts)]
    assert len(made) > 90
    for name in made:
        assert (data / name).read_bytes() == (ROOT / "data" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (None, ""),
        ('  "a dog"  ', "A dog."),
        ("is it?", "Is it?"),
        ("two\r lines", "Two lines."),
        ("Done!", "Done!"),
        ('"', ""),
        ("éclair", "Éclair."),
    ],
)
def test_mbeir_cleans_texts_as_uniir_does(text, expected):
    assert clean(text) == expected


def test_prompts_are_said_before_queries_only_and_make_images_fused(data, rows, tmp_path):
    row = rows["mbeir_first_fixture"]
    contents = read_mbeir(*folders(data, row), row)
    assert contents.tables["query_nights_task4"][0].modality == "image_text"
    assert contents.tables["query_nights_task4"][0].text == "Find for nights_task4."
    assert contents.tables["query_webqa_task1"][0].text.startswith("Find for webqa_task1. ")
    plain = read_mbeir(*folders(data, rows["mbeir_fixture"]), rows["mbeir_fixture"])
    assert plain.tables["query_nights_task4"][0].modality == "image"
    assert all(plain.tables[name] == contents.tables[name] for name in plain.tables if name.startswith("pool"))


def test_a_prompt_is_chosen_by_the_query_id_alone(data):
    prompts = read_prompts(data / "mbeir_fixture/instructions/query_instructions.tsv")[("4", "image", "image")]
    assert prompts == ["Find for nights_task4.", "Another prompt?", "Third one."]  # an empty cell is none
    chosen = [choose_prompt(prompts, "seeded", f"4:{k}") for k in range(60)]
    assert chosen == [choose_prompt(prompts, "seeded", f"4:{k}") for k in range(60)]
    assert set(chosen) == set(prompts)
    assert prompted("", "a dog") == "A dog."
    assert prompted("Find it.", None) == "Find it."


def test_mbeir_as_prepared(data, rows, tmp_path):
    bench = prepared(data, rows["mbeir_fixture"], tmp_path / "p")
    assert [t.name for t in bench.tasks] == list(rows["mbeir_fixture"].tasks)
    assert all(set(t.pools) == {"local", "global"} for t in bench.tasks)
    assert bench.missing["visualnews_task3"] == ["0:63"]  # its image is cut: a miss, still in the denominator
    rejects = (tmp_path / "p/rejects.csv").read_text()
    assert "visualnews_images/3.jpg" in rejects
    assert "cand_pool.jsonl:2,neither text nor image" in rejects
    assert bench.qrels["visualnews_task3"]["0:62"] == {"0:62": 1}  # relevant, rejected: never found, still asked for
    assert bench.qrels["cirr_task7"]["8:132"] == {"8:132": 1, "8:133": 1}
    assert "6:111" in bench.qrels["oven_task6"]["5:101"]  # InfoSeek's, in the global pool
    nights = bench.tables["pool_nights_task4"]
    assert nights.image_rows[0] == nights.image_rows[1]  # equal images under two ids


def test_some_tasks_have_no_global_pool_and_keep_positives_of_other_data_sets(data, rows, tmp_path):
    row = with_options(rows["mbeir_fixture"], tasks=["oven_task6", "nights_task4"])
    bench = prepared(data, row, tmp_path / "p")
    assert [set(t.pools) for t in bench.tasks] == [{"local"}, {"local"}]
    assert "6:111" in bench.qrels["oven_task6"]["5:101"]  # the denominator stays


def first_line(change):
    def apply(text):
        head, *rest = text.splitlines()
        return "\n".join([json.dumps(change(json.loads(head))), *rest]) + "\n"

    return apply


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("query/test/mbeir_nights_task4_test.jsonl", first_line(lambda r: {k: v for k, v in r.items() if k != "qid"}), r"test\.jsonl:1: 'qid' is None"),
        ("query/test/mbeir_nights_task4_test.jsonl", first_line(lambda r: r | {"qid": "nights"}), r"jsonl:1: 'qid' is 'nights', expected <data set>:<number>"),
        ("query/test/mbeir_nights_task4_test.jsonl", lambda text: text[:-30], r"test\.jsonl:3: no JSON"),
        ("query/test/mbeir_nights_task4_test.jsonl", first_line(lambda r: r | {"query_img_path": "../../etc/x"}), "leaves the folder of images"),
        ("query/test/mbeir_nights_task4_test.jsonl", first_line(lambda r: r | {"query_modality": "text"}), "query of modality text, but nights_task4 asks with image"),
        ("query/test/mbeir_nights_task4_test.jsonl", first_line(lambda r: r | {"query_txt": "x\ud83d"}), r"jsonl:1: 'query_txt' .* is not well-formed"),
        ("cand_pool/local/mbeir_nights_task4_cand_pool.jsonl", first_line(lambda r: r | {"did": "4:92"}), "id '4:92' occurs twice in table 'pool_nights_task4'"),
        ("cand_pool/local/mbeir_nights_task4_cand_pool.jsonl", first_line(lambda r: r | {"img_path": 3}), "'img_path' is 3, expected a string or null"),
        ("qrels/test/mbeir_nights_task4_test_qrels.txt", lambda text: text + "4:91 0 4:999 1 4\n", "name candidate '4:999', which is in no pool"),
        ("qrels/test/mbeir_nights_task4_test_qrels.txt", lambda text: text + "4:999 0 4:91 1 4\n", "name query '4:999', which table"),
        ("qrels/test/mbeir_nights_task4_test_qrels.txt", lambda text: text.replace(" 1 4", " 1 7", 1), r"qrels\.txt:1: task 7, expected 4"),
        ("qrels/test/mbeir_nights_task4_test_qrels.txt", lambda text: "nonsense\n", r"qrels\.txt:1: 'nonsense', expected"),
    ],
)  # fmt: skip
def test_a_bad_record_of_mbeir_is_named(data, rows, tmp_path, path, change, message):
    row = with_options(rows["mbeir_fixture"], tasks=["nights_task4"])
    copy = edited(data, tmp_path, path, change)
    with pytest.raises(ValueError, match=message):
        prepare_benchmark(copy, data / "mbeir_images_fixture", row, None, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_numbers_than_the_real_data_s_are_refused(data, rows, tmp_path):
    copy = edited(data, tmp_path, "query/test/mbeir_nights_task4_test.jsonl", lambda text: text.split("\n", 1)[1])
    path = copy / "qrels/test/mbeir_nights_task4_test_qrels.txt"
    path.write_text(path.read_text().split("\n", 1)[1])
    row = with_options(rows["mbeir_fixture"], tasks=["nights_task4"])
    with pytest.raises(ValueError, match="nights_task4 has 2 queries, expected 3"):
        prepare_benchmark(copy, data / "mbeir_images_fixture", row, None, 2, tmp_path / "out")


def test_missing_images_are_refused_beyond_the_limit_and_listed(data, rows, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)items of the benchmark are unusable, more than its reject_limit 10\.0%"):
        prepare_benchmark(
            data / "mbeir_fixture", tmp_path / "nowhere", rows["mbeir_fixture"], None, 2, tmp_path / "out"
        )
    assert (tmp_path / "out.rejects.csv").read_text().count("is missing") > 50


def test_mmeb_as_prepared(data, rows, tmp_path):
    bench = prepared(data, rows["mmeb_fixture"], tmp_path / "p")
    tasks = {t.name: t for t in bench.tasks}
    assert tasks["EDIS"].pools == {"official": ["mixed"], "mixed": ["mixed"]}
    assert tasks["N24News"].pools == {"official": ["own"]}
    assert tasks["EDIS"].listed == ("official",)
    for (name, pool), lists in bench.lists.items():
        ids = bench.pool_ids(tasks[name], pool).to_pylist()
        for query, row_numbers in lists.items():
            (right,) = bench.qrels[name][query]
            assert ids[row_numbers[-1]] == right  # last, where a tie never helps it
            assert len(set(row_numbers.tolist())) == len(row_numbers)
    assert [len(r) for r in bench.lists["WebQA", "official"].values()] == [4, 3, 4]  # a repeat counts once
    assert [len(r) for r in bench.lists["EDIS", "official"].values()] == [4, 4, 4]  # one image, four texts
    texts = [bench.tables["query_WebQA"].text_rows, bench.tables["query_NIGHTS"].text_rows]
    assert -1 not in texts[0]
    assert texts[1].tolist() == [-1, -1, -1]  # an image alone once the instruction is gone
    assert without_placeholder("<|image_1|>\nWhat? \n\n") == "What?"


@pytest.mark.parametrize(
    ("name", "stripped", "kept"),
    [
        # Query, then the first candidate: text, and whether there is an image.
        ("VisDial", [("Acquila", False), (None, True)], [("Do the task. Acquila", False), ("Represent it.", True)]),
        (
            "WebQA",
            [("Acquila", False), ("Acquila", True)],
            [("Do the task. Acquila", False), ("Represent it. Acquila", True)],
        ),
        ("N24News", [("Acquila", True), ("Acquila", False)], [("Do the task. Acquila", True), ("Acquila", False)]),
        ("NIGHTS", [(None, True), (None, True)], [("Do the task.", True), ("Represent it.", True)]),
        (
            "EDIS",
            [("Acquila", False), ("Acquila", True)],
            [("Do the task. Acquila", False), ("Represent it. Acquila", True)],
        ),
        ("ImageNet-1K", [(None, True), ("Acquila", False)], [("Do the task.", True), ("Acquila", False)]),
    ],
)
def test_mmeb_s_items_have_what_their_task_says_or_all_that_is_stored(data, rows, name, stripped, kept):
    for expected, instructions in ((stripped, "strip"), (kept, "keep")):
        row = with_options(rows["mmeb_fixture"], instructions=instructions)
        contents = read_mmeb(*folders(data, row), row)
        by_id = {item.item_id: item for items in contents.tables.values() for item in items}
        items = [
            contents.tables[f"query_{name}"][0],
            by_id[next(q.candidate_id for q in contents.qrels if q.task == name)],
        ]
        assert [(item.text, bool(item.images)) for item in items] == expected


def test_mmeb_keeps_instructions_on_request_and_cant_strip_what_it_cant_tell(data, rows, tmp_path):
    row = with_options(rows["mmeb_fixture"], instructions="keep")
    contents_texts = prepared(data, row, tmp_path / "p").tables["query_NIGHTS"].text_rows
    assert -1 not in contents_texts
    copy = tmp_path / "mmeb"
    shutil.copytree(data / "mmeb_fixture", copy)
    path = copy / "NIGHTS/test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["qry_inst"]), path)
    with pytest.raises(ValueError, match="no column qry_inst: its instructions are part of the text"):
        prepare_benchmark(copy, data / "mmeb_images_fixture", rows["mmeb_fixture"], None, 2, tmp_path / "out")


@pytest.mark.parametrize(
    ("count", "n", "expected"),
    [
        (15, 15, list(range(15))),
        (9, 15, list(range(9))),
        (30, 15, list(range(0, 30, 2))),
        (100, 3, [16, 49, 82]),
        (1, 15, [0]),
    ],
)
def test_frames_lie_in_the_middle_of_equal_parts(count, n, expected):
    assert spread_frames(count, n) == expected


def test_the_middle_frame_is_half_way():
    assert [middle_frame(n) for n in (1, 2, 9, 10)] == [0, 1, 4, 5]


def test_covr_as_prepared(data, rows, tmp_path):
    row = rows["covr_fixture"]
    bench = prepared(data, row, tmp_path / "p")
    names = {k: f"0120{k // 4}1_0120{k // 4}9/{1000 + k}" for k in range(8)}
    assert bench.missing["covr"] == [f"q/{names[0]}"]  # its query video is dead
    assert names[7] not in bench.tables["pool"].ids.to_pylist()  # a dead target
    assert f"q/{names[7]}" in bench.tables["query"].ids.to_pylist()  # a miss, but asked
    with (data / "covr_fixture" / row.options["annotations"]).open(newline="") as file:
        pairs = [(triplet["pth1"], triplet["pth2"]) for triplet in csv.DictReader(file)]
    own = {f"q/{target}": {reference} for reference, target in pairs if reference in {name for _, name in pairs}}
    assert bench.excluded["covr"] == {query: out for query, out in own.items() if query != f"q/{names[0]}"}
    assert bench.excluded["covr"][f"q/{names[1]}"] == {names[3]}
    frames, weights = (
        dict(zip(bench.tables["pool"].ids.to_pylist(), column.to_pylist(), strict=True))
        for column in (bench.tables["pool"].image_rows, bench.tables["pool"].weights)
    )
    assert len(frames[names[4]]) == 9
    assert len(frames[names[1]]) == 15
    assert weights[names[1]] == []  # scores of the wrong length
    assert weights[names[4]][-1] == pytest.approx(np.exp(8) / np.exp(np.arange(9)).sum(), rel=1e-5)
    assert clean_edit('Make  it: "Red"! (now)') == "make it red now"
    assert len(clean_edit("word " * 40).split()) == 30


def test_covr_pools_frames_and_swaps_colours_on_request(data, rows):
    row = rows["covr_fixture"]
    middle = read_covr(*folders(data, row), with_options(row, pooling="middle")).tables["pool"]
    assert all(len(item.images) == 1 for item in middle)
    swapped = read_covr(*folders(data, row), with_options(row, bgr_targets=True)).tables["pool"]
    plain = read_covr(*folders(data, row), row).tables["pool"]
    assert [item.images[0].endswith("/bgr") for item in (plain[0], swapped[0])] == [False, True]
    a, b = (np.asarray(decode(read_bytes(pool[0].images[3]), "x")) for pool in (plain, swapped))
    assert (a == b[..., ::-1]).all()
    assert not (a == b).all()


def test_weights_are_a_softmax_and_equal_where_scores_are_wrong():
    assert frame_weights("[]", 3) == frame_weights("[1, 2]", 3) == frame_weights("", 3) == ()
    np.testing.assert_allclose(frame_weights("[0.1, 0.2]", 2), np.exp([1, 2]) / np.exp([1, 2]).sum(), rtol=1e-6)
    with pytest.raises(ValueError, match="are no list of numbers"):
        frame_weights("[0.1,", 1)


def test_a_target_in_two_rows_is_named(data, rows, tmp_path):
    copy = tmp_path / "covr"
    shutil.copytree(data / "covr_fixture", copy)
    path = copy / "webvid8m-covr_test.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(ValueError, match=r"covr_test\.csv:8: target .* stands in line 2 already"):
        read_covr(copy, copy / "WebVid/8M/train", rows["covr_fixture"])


@pytest.mark.parametrize(
    ("mark", "edit"), [("\n", "make it red"), ("\u2028", "make it\u2028red"), ("\x0c", "make it red")]
)
def test_a_quoted_cell_of_covr_may_hold_line_breaks(data, rows, tmp_path, mark, edit):
    copy = tmp_path / "covr"
    shutil.copytree(data / "covr_fixture", copy)
    path = copy / "webvid8m-covr_test.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0]["edit"] = f"make it{mark}red"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(lines)
    contents = read_covr(copy, copy / "WebVid/8M/train", rows["covr_fixture"])
    assert contents.tables["query"][0].text in (edit, clean_edit(f"make it{mark}red"))
    assert len(contents.tables["query"]) + len(contents.missing) == len(lines)


def test_cirr_as_prepared(data, rows, tmp_path):
    bench = prepared(data, rows["cirr_fixture"], tmp_path / "p")
    assert bench.qrels["cirr"]["100"] == {"dev-1-0-img0": 1}  # target_hard, whatever target_soft says
    assert bench.excluded["cirr"]["100"] == {"dev-0-0-img0"}
    ids = bench.tables["pool"].ids.to_pylist()
    own = [ids[r] for r in bench.lists["cirr", "subset"]["100"]]
    assert own == [f"dev-{k}-0-img0" for k in (2, 3, 4, 5, 1)]  # the five others, the target last
    folder = with_options(rows["cirr_fixture"], gallery="folder")
    assert prepared(data, folder, tmp_path / "q").tables["pool"].ids.to_pylist() == ids
    shutil.copytree(data / "cirr_fixture", tmp_path / "cirr")
    (first,) = (tmp_path / "cirr").rglob("dev-0-0-img0.*")
    shutil.copy(first, first.with_stem("dev-9-0-img0"))  # beside those of the split
    for row, more in ((folder, ["dev-9-0-img0"]), (rows["cirr_fixture"], [])):
        contents = read_cirr(tmp_path / "cirr", tmp_path / "cirr/images", row)
        assert [item.item_id for item in contents.tables["pool"]] == [*ids, *more]


@pytest.mark.parametrize(
    ("row", "path", "content", "message"),
    [
        (
            "cirr_fixture",
            "captions/cap.rc2.val.json",
            [{"pairid": 1, "reference": "dev-0-0-img0", "caption": "x"}],
            "record 0: 'img_set' is None, expected dict",
        ),
        (
            "cirr_fixture",
            "captions/cap.rc2.val.json",
            [{"reference": "dev-0-0-img0"}],
            "record 0: 'pairid' is None, expected int",
        ),
        ("cirr_fixture", "captions/cap.rc2.val.json", {}, "expected a list of records, found dict"),
        ("cirr_fixture", "image_splits/split.rc2.val.json", [], "expected an object of names and files"),
        ("fashioniq_fixture", "captions/cap.dress.val.json", ["x"], "record 0: expected an object, found 'x'"),
        ("circo_fixture", "annotations/val.json", [{"id": 1}], "record 0: 'reference_img_id' is None, expected int"),
        (
            "circo_fixture",
            "annotations/val.json",
            [{"id": 1, "reference_img_id": 500, "relative_caption": "\ud83d"}],
            "record 0: 'relative_caption' .* is not well-formed",
        ),
        (
            "cirr_fixture",
            "captions/cap.rc2.val.json",
            [{"pairid": 1, "reference": "dev-0-0-img0", "caption": "x\ud83d"}],
            "record 0: 'caption' .* is not well-formed",
        ),
        (
            "fashioniq_fixture",
            "captions/cap.dress.val.json",
            [{"candidate": "B00D0", "target": "B00D1", "captions": ["fine", "\ud83d"]}],
            "record 0: 'captions' .* is not well-formed",
        ),
    ],
)
def test_a_bad_record_of_the_composed_sets_is_named(data, rows, tmp_path, row, path, content, message):
    copy = tmp_path / "a copy"
    shutil.copytree(data / rows[row].dataset, copy)
    (copy / path).write_text(json.dumps(content))
    images = copy / (rows[row].images.folder if rows[row].images else ".")
    with pytest.raises(ValueError, match=message):
        prepare_benchmark(copy, images, rows[row], None, 2, tmp_path / "out")


def test_fashioniq_as_prepared(data, rows, tmp_path):
    row = rows["fashioniq_fixture"]
    bench = prepared(data, row, tmp_path / "p")
    assert [len(bench.tables[f"pool_{c}"].ids) for c in ("dress", "shirt", "toptee")] == [5, 4, 5]
    assert bench.excluded["dress"]["dress:0"] == {"B00D0"}
    unmasked = type(row)(**{**{f: getattr(row, f) for f in row.__dataclass_fields__}, "tasks": {"dress": row.tasks["dress"].__class__()},
                            "options": {"mask_reference": False, "gallery": "val"}})  # fmt: skip
    other = prepared(data, unmasked, tmp_path / "q")
    assert other.excluded["dress"] == {}
    assert other.tables["pool_dress"].ids.to_pylist() == ["B00D0", "B00D1", "B00D2"]


def test_circo_as_prepared(data, rows, tmp_path):
    bench = prepared(data, rows["circo_fixture"], tmp_path / "p")
    assert bench.qrels["circo"]["2"] == {"503": 1, "504": 1, "505": 1}
    assert bench.qrels["circo_one"]["2"] == {"503": 1}
    assert bench.excluded["circo_one"]["2"] == {"502"}


def test_mixbench_as_prepared(data, rows, tmp_path):
    bench = prepared(data, rows["mixbench_fixture"], tmp_path / "p")
    assert [task.name for task in bench.tasks] == ["MSCOCO", "Google_WIT", "VisualNews", "OVEN"]
    assert {task.query_modality for task in bench.tasks} == {"text", "image_text"}
    for task in bench.tasks:
        assert task.pools == {"local": [f"pool_{task.name}"]}
        table = bench.tables[f"pool_{task.name}"]
        has_image, has_text = table.image_rows.value_lengths().to_numpy() > 0, table.text_rows >= 0
        assert (has_image | has_text).all()
        assert [(has_image & ~has_text).sum(), (has_text & ~has_image).sum(), (has_image & has_text).sum()] == [
            3 if task.name == "Google_WIT" else 2, 2, 2
        ]  # fmt: skip
        assert all(list(found.values()) == [1] for found in bench.qrels[task.name].values())
    assert bench.qrels["Google_WIT"]["100"] == {"100": 1}  # ids that are numbers become text


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("queries.parquet", lambda t: t.drop_columns(["image"]), "has no column image, only id, text"),
        ("mixed_corpus.parquet", lambda t: t.set_column(1, "text", pa.nulls(len(t), pa.string())), "row 0: 'd0' has neither"),
        ("mixed_corpus.parquet", lambda t: pa.concat_tables([t, t]), "id 'd0' occurs twice"),
        ("queries.parquet", lambda t: t.slice(1), "query 'q0' is in neither"),
        ("queries.parquet", lambda t: t.slice(0, 0), "0 queries and 6 documents"),
    ],
)  # fmt: skip
def test_mixbench_names_what_is_wrong(data, rows, tmp_path, file, change, said):
    folder = tmp_path / "mixbench"
    shutil.copytree(data / "mixbench_fixture", folder)
    path = folder / "MSCOCO" / file
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(ValueError, match=said):
        prepare_benchmark(folder, folder, rows["mixbench_fixture"], None, 2, tmp_path / "out")
