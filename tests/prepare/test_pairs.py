import csv
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcl.data.records import Pair
from gcl.prepare.check import repeats_per_batch
from gcl.prepare.pairs import reader_of_pairs
from gcl.prepare.pairs.auto import shape_of
from gcl.prepare.pairs.lcs558k import lcs558k
from gcl.prepare.pairs.table import table
from gcl.prepare.prepare import prepare_pairs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", 'filepath,title\na.png,A cat\nb.png,"Dogs, two"\n'),
        ("pairs.csv", "\ufeffimage;caption\na.png;A cat\nb.png;Dogs, two\n"),
        ("pairs.tsv", "id\timage_path\ttext\n1\ta.png\tA cat\n2\tb.png\tDogs, two\n"),
    ],
)
def test_a_table_is_read_whatever_its_separator_and_usual_names(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert list(table(tmp_path)) == [
        Pair("line 2", str(tmp_path / "a.png"), ("A cat",)),
        Pair("line 3", str(tmp_path / "b.png"), ("Dogs, two",)),
    ]


def test_a_table_without_captions_says_what_it_has(tmp_path):
    (tmp_path / "pairs.csv").write_text("filepath,label\na.png,cat\n")
    with pytest.raises(
        ValueError, match="no column for the caption: found filepath, label; name it one of title, caption"
    ):
        list(table(tmp_path))


def test_a_folder_without_a_table_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"no file with suffix .csv or .tsv; name the one to read pairs.csv"):
        list(table(tmp_path))


def test_lcs558k_takes_the_answer_as_caption(tmp_path):
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "a bridge \n"}]
    row = {"id": "004539375", "image": "00453/004539375.jpg", "conversations": turns}
    (tmp_path / "blip_laion_cc_sbu_558k.json").write_text(json.dumps([row]))
    assert list(lcs558k(tmp_path)) == [
        Pair("004539375", f"{tmp_path}/images.zip::00453/004539375.jpg", ("a bridge \n",))
    ]


def test_a_broken_json_is_named(tmp_path):
    (tmp_path / "blip_laion_cc_sbu_558k.json").write_text("[{")
    with pytest.raises(ValueError, match=r"can't read .*558k\.json as JSON"):
        list(lcs558k(tmp_path))


def pictures24():
    """Twenty-four pairs: encoded image and caption."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(24):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(buffer, "PNG")
        made.append((buffer.getvalue(), f"caption {i}, with a comma" if i % 3 else f'"quoted" {i}'))
    return made


def write_table(folder, rows, name="pairs.csv", delimiter=","):
    with (folder / name).open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["filepath", "title"])
        for i, (image, caption) in enumerate(rows):
            (folder / f"{i:02}.png").write_bytes(image)
            writer.writerow([f"{i:02}.png", caption])


def write_tsv(folder, rows):
    write_table(folder, rows, "mine.tsv", "\t")


def write_folder(folder, rows):
    (folder / "00000").mkdir()
    for i, (image, caption) in enumerate(rows):
        (folder / f"00000/{i:09}.png").write_bytes(image)
        if i % 2:
            (folder / f"00000/{i:09}.txt").write_text(caption)
        else:
            (folder / f"00000/{i:09}.json").write_text(json.dumps({"caption": caption, "status": "success"}))


def write_shards(folder, rows):
    """Two shards with their side-cars, as img2dataset leaves them."""
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as archive:
            for i, (image, caption) in list(enumerate(rows))[shard * 12 : shard * 12 + 12]:
                about = json.dumps({"caption": caption, "key": f"{i:09}"}).encode()
                for suffix, data in (("png", image), ("txt", caption.encode()), ("json", about)):
                    member = tarfile.TarInfo(f"{i:09}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        pq.write_table(pa.table({"caption": [c for _, c in rows[shard * 12 :][:12]]}), folder / f"{shard:05}.parquet")
        (folder / f"{shard:05}_stats.json").write_text('{"count": 12, "successes": 12}')


def write_parquet(folder, rows):
    images = pa.array([{"bytes": image, "path": None} for image, _ in rows])
    table = pa.table({"image": images, "text": [caption for _, caption in rows]})
    pq.write_table(table, folder / "train-00000-of-00001.parquet", row_group_size=5)


def write_datasets(folder, rows):
    """What Dataset.save_to_disk of Hugging Face datasets leaves: Arrow streams listed in state.json."""
    (folder / "train").mkdir()
    images = pa.array([{"bytes": image, "path": None} for image, _ in rows])
    table = pa.table({"image": images, "text": [caption for _, caption in rows]})
    files = []
    for number, part in enumerate((table.slice(0, 10), table.slice(10))):
        files.append({"filename": f"data-{number:05}-of-00002.arrow"})
        with pa.ipc.new_stream(folder / "train" / files[-1]["filename"], table.schema) as stream:
            stream.write_table(part, max_chunksize=4)
    (folder / "train/state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "0", "_split": None}))
    (folder / "train/dataset_info.json").write_text('{"features": {}}')


SHAPES = {
    "table": write_table,
    "tsv": write_tsv,
    "folder": write_folder,
    "webdataset": write_shards,
    "parquet": write_parquet,
    "datasets": write_datasets,
}


def test_the_same_pairs_in_every_shape_are_the_same_canonical_bytes(tmp_path):
    rows = pictures24()
    found = {}
    for name, write in SHAPES.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder, rows)
        assert shape_of(folder) == name.replace("tsv", "table")
        prepare_pairs(folder, "auto", 0.0, None, tmp_path / f"{name}.prepared")
        files = ("images.parquet", "texts.parquet", "pairs.parquet")
        found[name] = [(tmp_path / f"{name}.prepared" / f).read_bytes() for f in files]
    assert all(value == found["table"] for value in found.values())


def test_images_of_every_shape_are_read_where_they_lie(tmp_path):
    from gcl.data.images import read_bytes
    from gcl.data.records import read_parquet

    rows = pictures24()
    for name, write in SHAPES.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder, rows)
        prepare_pairs(folder, "auto", 0.0, None, tmp_path / f"{name}.prepared")
        locations = read_parquet(tmp_path / f"{name}.prepared/locations.parquet")["location"].to_pylist()
        assert [read_bytes(location) for location in locations] == [image for image, _ in rows]


def gcl_check(folder, *more):
    command = [sys.executable, "-m", "gcl.prepare.check", str(folder), "--batch-size", "8", *more]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_check_names_every_planted_fault(tmp_path):
    rows = pictures24()
    write_table(tmp_path, rows)
    (tmp_path / "03.png").write_bytes(rows[3][0][:200])  # cut
    (tmp_path / "04.png").unlink()  # missing
    (tmp_path / "05.png").write_text("<html>not found</html>")  # no image
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    lines[7] = "06.png,"  # no caption
    lines.append(lines[1])  # twice
    lines.append(",no picture")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    done = gcl_check(tmp_path, "--reject-limit", "0.3")
    assert done.returncode == 0, done.stderr
    assert "26 found, 20 usable, 5 unusable, 1 repeated" in done.stdout
    assert "read as table" in done.stdout
    with (tmp_path / "rejects.csv").open(newline="") as file:
        reasons = {row["record"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"line 5", "line 6", "line 7", "line 8", "line 26", "line 27"}
    assert "can't decode" in reasons["line 5"]
    assert "is missing" in reasons["line 6"]
    assert "can't decode" in reasons["line 7"]
    assert reasons["line 8"] == "no caption"
    assert reasons["line 26"] == "the same image and caption as line 2"
    assert "no image file is named" in reasons["line 27"]
    assert "5 of 26 pairs are unusable, more than reject_limit 1.0%" in gcl_check(tmp_path).stderr


def test_check_refuses_what_can_not_train(tmp_path):
    done = gcl_check(tmp_path)
    assert done.returncode == 1
    assert "holds no pairs in a form that is known" in done.stderr
    assert "is no folder" in gcl_check(tmp_path / "nowhere").stderr
    (tmp_path / "pairs.csv").write_text("filepath,title\n")
    assert "holds no usable pair; its files hold no record at all" in gcl_check(tmp_path).stderr
    assert "--batch-size is 0 and" in gcl_check(tmp_path, "--batch-size", "0").stderr
    write_table(tmp_path, pictures24()[:5])
    assert "5 pairs don't fill one batch of 8" in gcl_check(tmp_path).stderr


def test_repeats_are_counted_as_a_random_batch_has_them():
    rng = np.random.default_rng(0)
    values = list("aaabbcdefg")
    found = []
    for _ in range(20000):
        batch = rng.permutation(values)[:4]
        found.append(sum(batch[i] == batch[j] for i in range(4) for j in range(i)))
    assert repeats_per_batch(values, 4) == pytest.approx(np.mean(found), rel=0.05)


def test_a_compressed_shard_is_explained(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"can't read .*00000\.tar as an uncompressed tar file"):
        list(reader_of_pairs("webdataset").read(tmp_path))


def test_a_cut_shard_is_explained(tmp_path):
    from gcl.data.images import read_bytes

    write_shards(tmp_path, pictures24())
    path = tmp_path / "00001.tar"
    location = next(p.image for p in reader_of_pairs("webdataset").read(tmp_path) if p.name.startswith("00001"))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"00001\.tar ends within"):
        read_bytes(location)


def test_links_in_a_shard_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        text = tarfile.TarInfo("a.txt")
        text.size = 3
        archive.addfile(text, io.BytesIO(b"cat"))
    (pair,) = reader_of_pairs("webdataset").read(tmp_path)
    assert pair.fault == "no image among a.txt"


def test_a_parquet_without_captions_says_what_it_has(tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column for the caption: found image, label"):
        list(reader_of_pairs("parquet").read(tmp_path))


@pytest.mark.parametrize("name", ["image_path", "filepath", "path"])
def test_a_parquet_column_of_paths_names_files_beside_it(tmp_path, name):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"pictures/{number}.png")
    names = [f"pictures/{number}.png" for number in range(3)] + [None]
    table = pa.table({name: names, "caption": ["a", "b", "c", "d"]})
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=2)
    found = list(reader_of_pairs("parquet").read(tmp_path))
    assert [pair.image for pair in found] == [str(tmp_path / (x or "")) for x in names]
    prepare_pairs(tmp_path, "auto", 0.5, None, tmp_path / "out")
    assert "no image file is named" in (tmp_path / "out/rejects.csv").read_text()
