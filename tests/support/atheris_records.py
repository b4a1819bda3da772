"""Coverage-guided fuzzing of the parsers of records, by hand: no part of the tests.

    pip install '.[fuzz]'
    python tests/atheris_records.py -max_total_time=60

An input is taken as each kind of annotation file in turn. Anything but a ValueError ends the run and writes the input.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gcl"]):
    from gcl.data.annotations import clean_edit, read_jsonl, read_records
    from gcl.prepare.benchmarks.covr import frame_weights, read_triplets
    from gcl.prepare.benchmarks.mbeir import Rejects, Source, clean, read_pool, read_prompts, read_qrels, read_queries

FOLDER = Path(tempfile.mkdtemp())
TASK = "nights_task4"


def try_all(data: bytes) -> None:
    """Read one input as everything."""
    path = FOLDER / "x"
    source = Source(FOLDER, FOLDER, "test")
    for place in (path, source.queries(TASK), source.pool(TASK)):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    text = data.decode(errors="replace")
    for read in (
        lambda: list(read_jsonl(path)),
        lambda: list(read_records(path)),
        lambda: read_qrels(path, TASK),
        lambda: read_prompts(path),
        lambda: read_triplets(path),
        lambda: read_queries(source, TASK, "none", {}, Rejects()),
        lambda: read_pool(source, TASK, Rejects()),
        lambda: frame_weights(text, 3),
        lambda: (clean(text), clean_edit(text)),
    ):
        try:
            read()
        except ValueError:
            continue


SEEDS = [
    b'{"qid": "4:1", "query_txt": null, "query_img_path": "a.jpg", "query_modality": "image", "pos_cand_list": []}\n',
    b'{"did": "4:2", "txt": "", "img_path": "a.jpg", "modality": "image"}\n',
    b"4:1 0 4:2 1 4\n",
    b'pth1,pth2,edit,scores\na/1,a/2,make it red,"[0.1, 0.2]"\n',
    b"a\tb\tc\td\nimage\timage\tnights\t4\tFind it.\n",
    b"[0.1, 0.2, 0.3]",
]

if __name__ == "__main__":
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], try_all)
    atheris.Fuzz()
