"""Small data sets in the layouts of M2KR, MMDocIR and wikiHow-TIIR; fixtures.py writes them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from support.fixtures import encoded, pictures, write_lines


def write_parquet(path, columns):
    """Write columns of Python lists, two rows a group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)


def m2kr(folder):
    """M2KR: a task asked with an image, one with text, one with both; a passage without text, one that is not there."""
    shown = pictures(6)
    for k, (_, picture) in enumerate(shown[:3]):
        for name in ("IGLUE", "OKVQA"):
            path = folder / "images" / name / f"photos/{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture))
    for name in ("IGLUE", "MSMARCO", "OKVQA"):
        texts = [f"{title} is drawn here, with {number} lines" for number, (title, _) in enumerate(shown[:4])] + [""]
        ids = [f"{name}_{k}" for k in range(5)]
        write_parquet(
            folder / f"{name}_passages/test_passages-00000-of-00001.parquet",
            {"language": ["en"] * 5, "passage_id": ids, "passage_content": texts},
        )
        relevant = [[ids[0]], [ids[1], ids[3]], [ids[2], f"{name}_lost"]]
        columns = {
            "question_id": [f"q{k}" for k in range(3)],
            "pos_item_ids": relevant,
            "pos_item_contents": [["..."] * len(found) for found in relevant],
            "instruction": ["Find a passage about this picture:" if name == "IGLUE" else "Answer the question"] * 3,
            "question": pa.array(
                [None] * 3 if name == "IGLUE" else [f"what is {t}?" for t, _ in shown[:3]], pa.string()
            ),
        }
        if name != "MSMARCO":
            columns["img_path"] = [f"photos/{k}.jpg" for k in range(3)]
        if name == "OKVQA":
            columns |= {
                "answers": [["WITH 0 lines ", "x"], ["4 lines"], ["with", ""]],
                "gold_answer": ["0", "4", "with"],
            }
        write_parquet(folder / f"{name}_data/test-00000-of-00001.parquet", columns)


def mmdocir(folder):
    """MMDocIR: two documents of three and two pages; a question of two pages, a label that only grazes a layout."""
    shown = pictures(12)
    documents = ["a.pdf"] * 3 + ["b.pdf"] * 2
    write_parquet(
        folder / "MMDocIR_pages.parquet",
        {
            "doc_name": documents,
            "passage_id": [str(k) for k in (0, 1, 2, 0, 1)],
            "image_binary": [encoded(picture) for _, picture in shown[:5]],
            "ocr_text": [title for title, _ in shown[:4]] + [""],
            "vlm_text": [f"a page with {title}" for title, _ in shown[:5]],
        },
    )
    boxes = [[0.0, 0.0, 50.0, 50.0], [50.0, 0.0, 100.0, 50.0]]
    write_parquet(
        folder / "MMDocIR_layouts.parquet",
        {
            "doc_name": ["a.pdf"] * 4 + ["b.pdf"] * 3,
            "type": ["text", "figure", "table", "equation", "text", "figure", "text"],
            "layout_id": list(range(7)),
            "page_id": [0, 0, 1, 2, 0, 1, 1],
            "image_binary": [encoded(picture) for _, picture in shown[5:12]],
            "text": [title if k % 2 == 0 else None for k, (title, _) in enumerate(shown[5:12])],
            "ocr_text": [None if k % 2 == 0 else title for k, (title, _) in enumerate(shown[5:12])],
            "vlm_text": [None if k % 2 == 0 else title for k, (title, _) in enumerate(shown[5:12])],
            "bbox": [boxes[k] for k in (0, 1, 0, 0, 0, 0, 1)],
            "page_size": [[100.0, 100.0]] * 7,
        },
    )

    def label(page, box):
        return {"page": page, "page_size": [100.0, 100.0], "bbox": box}

    def question(text, pages, labels):
        return {"Q": text, "A": "-", "page_id": pages, "type": "['Figure']", "layout_mapping": labels}

    lines = [
        {
            "doc_name": "b.pdf", "domain": "Brochure", "page_indices": [3, 4], "layout_indices": [4, 6],
            "questions": [
                question(f"where is {shown[3][0]}?", [0], [label(0, boxes[0])]),
                question("what is shown on both pages?\n", [0, 1], [label(0, boxes[0]), label(1, [45, 0, 100, 50])]),
            ],
        },
        {
            "doc_name": "a.pdf", "domain": "Brochure", "page_indices": [0, 2], "layout_indices": [0, 3],
            "questions": [
                question(f"where is {shown[1][0]}?", [1, 1], [label(1, boxes[0])]),
                question("what has no layout?", [2], [label(2, boxes[1])]),
            ],
        },
    ]  # fmt: skip
    write_lines(folder / "MMDocIR_annotations.jsonl", map(json.dumps, lines))


def shown_as(folder, stem):
    """Write ten pictures to images/<stem><k>.png; return their titles and the pictures."""
    shown = pictures(10)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for k, (_, picture) in enumerate(shown):
        (folder / f"images/{stem}{k}.png").write_bytes(encoded(picture, "PNG"))
    return shown


def tiir(folder):
    """wikiHow-TIIR: texts and images in turn; a document of images alone, one of text, ids that are numbers."""
    shown = shown_as(folder, "step")

    def steps(*numbers):
        return [part for k in numbers for part in (f"Draw {shown[k][0]}.", f"step{k}.png")]

    documents = [
        steps(0, 1),
        steps(2, 3, 4),
        steps(5),
        ["step6.png", "step7.png"],
        ["Only words."],
        steps(8, 9),
        steps(1, 0),
    ]
    write_lines(folder / "documents.jsonl", [json.dumps({"id": k, "data": found}) for k, found in enumerate(documents)])
    queries = [
        ["How to draw", "step0.png", "and then?"],
        ["step3.png"],
        [f"A {shown[5][0]}"],
        ["step6.png", "step6.png", "twice"],
    ]
    write_lines(folder / "queries.jsonl", [json.dumps({"qid": k, "data": found}) for k, found in enumerate(queries)])
    pairs = [{"did": k, "qid": k} for k in range(4)] + [{"did": k, "qid": None} for k in range(4, 7)]
    write_lines(folder / "qrels.jsonl", map(json.dumps, pairs))


def anycir(folder):
    """AnyCIR: pairs of snippets; lost files are null, and a pair without an image on one side takes no part."""
    shown = shown_as(folder, "snippet")

    def pair(one, other, lost=()):
        sides = {"pre": one, "next": other}
        files = {name: [None, f"snippet{k}.png", "gone.png"] for name, k in sides.items()}
        files |= {name: [None] for name in lost}
        found = {f"{name}_text": f"Here is {shown[k][0]}." for name, k in sides.items()}
        return found | {f"{name}_img": own for name, own in files.items()}

    lines = [pair(0, 1), pair(2, 3), pair(4, 5, ["next"]), pair(6, 7), pair(8, 9)]
    write_lines(folder / "anycir.jsonl", map(json.dumps, lines))
