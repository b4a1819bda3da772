"""Write the small data sets of config/fixtures.yaml, in the official layouts and with the traps that the real ones have.

    PYTHONPATH=src:tests python tests/support/fixtures.py data

Pictures and titles are Open Clip Art's (public domain); everything else is made up here.
"""

import csv
import io
import json
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MBEIR = (
    "visualnews_task0 mscoco_task0 fashion200k_task0 webqa_task1 edis_task2 webqa_task2 visualnews_task3 mscoco_task3 "
    "fashion200k_task3 nights_task4 oven_task6 infoseek_task6 fashioniq_task7 cirr_task7 oven_task8 infoseek_task8"
).split()
IDS = dict(
    zip("visualnews fashion200k webqa edis nights oven infoseek fashioniq cirr mscoco".split(), range(10), strict=True)
)
FOLDERS = {"infoseek": "oven"}
FORMS = {0: "t i", 1: "t t", 2: "t it", 3: "i t", 4: "i i", 6: "it t", 7: "it i", 8: "it it"}
NAMES = {"t": "text", "i": "image", "it": "image,text"}


def pictures(n):
    """Return n (title, RGB picture) of the shipped data, no title twice."""
    columns = ["title", "image", "split"]
    rows = pq.read_table(ROOT / "data/openclipart/pictures.parquet", columns=columns).to_pylist()
    rows = list({row["title"]: row for row in rows if row["split"] == "test"}.values())[:n]
    return [(row["title"], Image.open(io.BytesIO(row["image"])).convert("RGB").resize((48, 48))) for row in rows]


def encoded(image, form="JPEG"):
    """Return the bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, form, **({"quality": 60} if form == "JPEG" else {}))
    return buffer.getvalue()


def write_lines(path, lines):
    """Write text lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_json(path, value):
    """Write JSON."""
    write_lines(path, [json.dumps(value)])


def write_bytes(path, data):
    """Write bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tar_gz(members):
    """Return a compressed tar file, the same bytes every time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=9) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = bytearray(buffer.getvalue())
    data[4:8] = bytes(4)  # the time of writing
    return bytes(data)


def mbeir(folder, images):
    """M-BEIR: 16 tasks of three queries and four candidates."""
    shown = pictures(40)
    members, prompts = {}, []
    for number, task in enumerate(MBEIR):
        dataset, form = task.split("_")[0], int(task[-1])
        asks, finds = FORMS[form].split()
        ident, base = IDS[dataset], 10 * number
        where = f"mbeir_images/{FOLDERS.get(dataset, dataset)}_images"
        prompts.append(
            [NAMES[asks], NAMES[finds], dataset, str(ident), f"Find for {task}", '"another prompt?"', "", "third one."]
        )
        queries, candidates, qrels = [], [], []
        for k in range(4):
            title, picture = shown[(2 * number + k) % 40]
            path = f"{where}/{base + k}.jpg"
            members[path] = encoded(picture)
            candidates.append({"did": f"{ident}:{base + k + 1}", "txt": f"  {title} described" if "t" in finds else None,
                               "img_path": path if "i" in finds else None, "modality": NAMES[finds], "src_content": None})  # fmt: skip
            if k == 3:
                continue
            asked = f"{where}/q{base + k}.jpg"
            members[asked] = encoded(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
            did = f"{ident}:{base + k + 1}"
            queries.append({"qid": f"{ident}:{base + k + 1}", "query_txt": title.lower() if "t" in asks else None,
                            "query_img_path": asked if "i" in asks else None, "query_modality": NAMES[asks],
                            "query_src_content": None, "pos_cand_list": [{"did": did}] if k else [did],
                            "neg_cand_list": [], "task_id": form})  # fmt: skip
            qrels.append(f"{ident}:{base + k + 1} 0 {did} 1 {form}")
        mbeir_traps(task, where, base, queries, candidates, qrels, members)
        write_lines(folder / f"query/test/mbeir_{task}_test.jsonl", map(json.dumps, queries))
        pool = f"mbeir_{task}_{'test_' if dataset == 'mscoco' else ''}cand_pool.jsonl"
        write_lines(folder / "cand_pool/local" / pool, map(json.dumps, candidates))
        write_lines(folder / f"qrels/test/mbeir_{task}_test_qrels.txt", qrels)
    header = [
        "query_modality",
        "cand_modality",
        "dataset_name",
        "dataset_id",
        "prompt_1",
        "prompt_2",
        "prompt_3",
        "prompt_4",
    ]
    write_lines(folder / "instructions/query_instructions.tsv", ["\t".join(row) for row in [header, *prompts]])
    data = tar_gz(members)
    for part in range(3):
        third = len(data) // 3 + 1
        write_bytes(images / f"mbeir_images.tar.gz.part-0{part}", data[part * third : (part + 1) * third])


def mbeir_traps(task, where, base, queries, candidates, qrels, members):
    """Plant what the real data have."""
    if task == "oven_task6":  # a positive of another data set, in the global pool only, and a very long text
        infoseek = 10 * MBEIR.index("infoseek_task6") + 1
        queries[0]["pos_cand_list"].append(f"{IDS['infoseek']}:{infoseek}")
        qrels.append(f"{queries[0]['qid']} 0 {IDS['infoseek']}:{infoseek} 1 6")
        candidates[3]["txt"] = "long " * 12_000
    if task == "edis_task2":  # the order of the two modalities, one image with two texts, a carriage return
        for candidate in candidates:
            candidate["modality"] = "text,image"
        candidates[1]["img_path"] = candidates[0]["img_path"]
        candidates[0]["txt"] = "two\r lines"
    if task == "nights_task4":  # equal images under two ids, and two of one colour
        members[f"{where}/{base + 1}.jpg"] = members[f"{where}/{base}.jpg"]
        members[f"{where}/{base + 2}.jpg"] = members[f"{where}/{base + 3}.jpg"] = encoded(
            Image.new("RGB", (48, 48), "grey")
        )
    if task == "visualnews_task0":  # a candidate whose image is missing from the archive
        del members[f"{where}/{base + 3}.jpg"]
    if task == "visualnews_task3":  # a relevant candidate without text, and a query whose image is cut
        candidates[1]["txt"] = ""
        members[f"{where}/q{base + 2}.jpg"] = members[f"{where}/q{base + 2}.jpg"][:200]
    if task == "cirr_task7":  # several positives, one of them twice
        queries[1]["pos_cand_list"].append({"did": candidates[2]["did"]})
        qrels += [f"{queries[1]['qid']} 0 {candidates[2]['did']} 1 7"] * 2


def mmeb(folder, images):
    """MMEB: six of the 36 sets, three rows each."""
    shown = pictures(12)
    titles = [title for title, _ in shown]
    paths = [f"Pictures/{k}.jpg" for k in range(12)]
    members = {f"MMEB/{path}": encoded(picture) for path, (_, picture) in zip(paths, shown, strict=True)}
    mark = "<|image_1|>\n"

    def write(name, rows):
        path = folder / name / "test-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)

    def row(asked, query_image, texts, shown_images):
        found = {"qry_inst": f"{mark if query_image else ''}Do the task.\n", "qry_text": asked, "qry_img_path": query_image,
                 "tgt_inst": "Represent it.", "tgt_text": texts, "tgt_img_path": shown_images}  # fmt: skip
        return found if shown_images else {k: v for k, v in found.items() if k not in ("tgt_img_path", "tgt_inst")}

    def order(k, n=4):
        return [(k + j) % 12 for j in range(n)]

    write("ImageNet-1K", [row("", paths[k], [titles[j] for j in order(k)], None) for k in range(3)])
    write("N24News", [row(f"{mark}{titles[k]}\n", paths[k], [titles[j] for j in order(k)], None) for k in range(3)])
    both = [
        row(f"{mark}{titles[k]}\n", "", [titles[j] for j in order(k)], [paths[j] for j in order(k)]) for k in range(3)
    ]
    both[1]["tgt_text"][2], both[1]["tgt_img_path"][2] = both[1]["tgt_text"][0], both[1]["tgt_img_path"][0]  # repeated
    write("WebQA", both)
    one_image = [
        row(titles[k], "", [titles[j] for j in order(k)], [paths[k]] * 4) for k in range(3)
    ]  # told apart by text
    write("EDIS", one_image)
    write("NIGHTS", [row("", paths[k], "", [paths[j] for j in order(k)]) for k in range(3)])  # a bare string
    write("VisDial", [row(titles[k] + "\n\n", "", "", [paths[j] for j in order(k)]) for k in range(3)])
    write_bytes(images / "mmeb_v1.tar.gz", tar_gz(members))


def video(picture, frames):
    """Return an MP4 file: a picture that moves to the right."""
    pixels = np.asarray(picture.resize((64, 64)))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width = stream.height = 64
        stream.pix_fmt, stream.bit_rate = "yuv420p", 400_000
        stream.codec_context.thread_count = 1
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(pixels, 2 * k, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def covr(folder):
    """WebVid-CoVR: six triplets in no order, one with a dead query video and one with a dead target."""
    shown = pictures(8)
    names = [f"0120{k // 4}1_0120{k // 4}9/{1000 + k}" for k in range(8)]
    for k, (name, (_, picture)) in enumerate(zip(names, shown, strict=True)):
        data = b"<html>gone</html>" if k in (6, 7) else video(picture, 20 if k % 2 else 9)
        write_bytes(folder / f"WebVid/8M/train/{name}.mp4", data)
    triplets = [(3, 1, "[0.3, 0.2]"), (0, 2, "[]"), (1, 3, str([0.1] * 15)), (2, 4, str([k / 10 for k in range(9)])), (6, 0, "[]"), (5, 7, "[]")]  # fmt: skip
    with (folder / "webvid8m-covr_test.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["txt1", "txt2", "sim_txt", "pth1", "pth2", "edit", "scores"])
        for asked, target, scores in triplets:
            texts = shown[asked][0], shown[target][0]
            writer.writerow([*texts, 0.7, names[asked], names[target], f"Make it: {texts[1]}!", scores])


def cirr(folder):
    """CIRR: four triplets over eight images, and three over seven whose targets are hidden."""
    shown = pictures(8)
    names = [f"dev-{k}-0-img0" for k in range(8)]
    for name, (_, picture) in zip(names, shown, strict=True):
        write_bytes(folder / f"images/dev/{name}.jpg", encoded(picture))  # the split file says .png
    write_json(folder / "image_splits/split.rc2.val.json", {name: f"./dev/{name}.png" for name in names})
    records = []
    for k in range(4):
        target = names[k + 1]
        soft = {target: 1.0 if k else 0.5, names[k + 2]: 1.0, names[k + 3]: -1.0}
        records.append({"pairid": 100 + k, "reference": names[k], "target_hard": target, "target_soft": soft,
                        "caption": f"Show {shown[k + 1][0]} instead.",
                        "img_set": {"id": k, "members": [names[(k + j) % 8] for j in range(6)], "reference_rank": 0, "target_rank": 1}})  # fmt: skip
    write_json(folder / "captions/cap.rc2.val.json", records)
    hidden = [f"test1-{k}-0-img1" for k in range(7)]
    for name, (_, picture) in zip(hidden, shown, strict=False):
        write_bytes(folder / f"images/test1/{name}.jpg", encoded(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    write_json(folder / "image_splits/split.rc2.test1.json", {name: f"./test1/{name}.png" for name in hidden})
    asked = [{"pairid": 200 + k, "reference": hidden[k], "caption": f"Show {shown[k + 1][0]} instead.",
              "img_set": {"id": k, "members": [hidden[(k + j) % 7] for j in range(6)]}} for k in range(3)]  # fmt: skip
    write_json(folder / "captions/cap.rc2.test1.json", asked)


def fashioniq(folder):
    """FashionIQ: three categories of two queries over five images, one of which is gone."""
    shown = pictures(15)
    for c, category in enumerate(("dress", "shirt", "toptee")):
        names = [f"B00{category[0].upper()}{k}" for k in range(5)]
        for k, name in enumerate(names[:-1] if category == "shirt" else names):
            write_bytes(folder / f"images/{name}.jpg", encoded(shown[5 * c + k][1]))
        write_json(folder / f"image_splits/split.{category}.val.json", names)
        records = [{"candidate": names[k], "target": names[k + 1], "captions": [f"Is {shown[5 * c + k + 1][0]}.", "has more; detail"]} for k in range(2)]  # fmt: skip
        write_json(folder / f"captions/cap.{category}.val.json", records)


def circo(folder):
    """CIRCO: three queries with one to three right images among eight."""
    shown = pictures(8)
    info = [{"id": 500 + k, "file_name": f"{500 + k:012d}.jpg"} for k in range(8)]
    for image, (_, picture) in zip(info, shown, strict=True):
        write_bytes(folder / f"COCO2017_unlabeled/unlabeled2017/{image['file_name']}", encoded(picture))
    write_json(folder / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json", {"images": info})
    records = [{"id": k, "reference_img_id": 500 + k, "target_img_id": 501 + k, "gt_img_ids": [501 + j for j in range(k, 2 * k + 1)],
                "relative_caption": f"shows {shown[k + 1][0]}", "shared_concept": "a drawing"} for k in range(3)]  # fmt: skip
    write_json(folder / "annotations/val.json", records)
    labels = ("target_img_id", "gt_img_ids")
    hidden = [{key: value for key, value in record.items() if key not in labels} for record in records[:2]]
    write_json(folder / "annotations/test.json", hidden)


def mixbench(folder):
    """MixBench: four subsets, documents as text, picture or both in turn; ids of two subsets are numbers."""
    shown = pictures(24)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def write(path, rows):
        ids = pa.array([row[0] for row in rows])
        images = [None if row[2] is None else {"bytes": encoded(row[2]), "path": None} for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"id": ids, "text": pa.array([row[1] for row in rows], pa.string()), "image": pa.array(images, kind)}
        pq.write_table(pa.table(columns), path, row_group_size=3)

    for number, name in enumerate(("MSCOCO", "Google_WIT", "VisualNews", "OVEN")):
        some = shown[6 * number : 6 * number + 6]
        ids = [100 * number + k for k in range(7)] if number % 2 else [f"d{k}" for k in range(7)]
        corpus = [
            (ids[k], None if k % 3 == 1 else f"{title} described", None if k % 3 == 0 else picture)
            for k, (title, picture) in enumerate(some)
        ]
        if name == "Google_WIT":  # more documents than queries, and an empty text beside an image
            corpus.append((ids[6], "", some[0][1].rotate(90)))
        both = name == "OVEN"
        queries = [
            (ids[k] if number % 2 else f"q{k}", title.lower(), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if both else None)
            for k, (title, picture) in enumerate(some[:4])
        ]  # fmt: skip
        write(folder / name / "mixed_corpus.parquet", corpus)
        write(folder / name / "queries.parquet", queries)
        lines = [f"{queries[k][0]}\t{ids[k]}\t1" for k in range(4)]
        write_lines(folder / name / "qrels/qrels.tsv", ["query_id\tcorpus_id\tscore", *lines])


def write_all(folder):
    """Write all data sets below a folder."""
    mbeir(folder / "mbeir_fixture", folder / "mbeir_images_fixture")
    mmeb(folder / "mmeb_fixture", folder / "mmeb_images_fixture")
    covr(folder / "covr_fixture")
    cirr(folder / "cirr_fixture")
    fashioniq(folder / "fashioniq_fixture")
    circo(folder / "circo_fixture")
    mixbench(folder / "mixbench_fixture")
    from support.document_fixtures import anycir, m2kr, mmdocir, tiir  # it imports from here

    m2kr(folder / "m2kr_fixture")
    mmdocir(folder / "mmdocir_fixture")
    tiir(folder / "tiir_fixture")
    anycir(folder / "anycir_fixture")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
