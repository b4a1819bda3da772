"""mteb's own evaluation with our search underneath: a mixed pool, and the same hit rates as ours. Needs mteb."""

import numpy as np
import pytest
from PIL import Image

from gcl.common.errors import UserError
from gcl.score.evaluate import evaluate

mteb = pytest.importorskip("mteb", reason="mteb is not in the lock; pip install '.[mteb]'")

from datasets import Dataset, Features, Value  # noqa: E402
from datasets import Image as Picture  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from gcl.collection.mteb_search import GCLSearch  # noqa: E402

N = 30
FEATURES = Features({"id": Value("string"), "text": Value("string"), "image": Picture()})


def rows(prefix, kinds, seed):
    """Items of the given kinds: a colour, its name, or both."""
    rng = np.random.default_rng(seed)
    made = []
    for number, kind in enumerate(kinds):
        image = Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)) if kind != "text" else None
        text = f"{prefix} number {number}" if kind != "image" else ""  # mteb wants an empty text for none
        made.append({"id": f"{prefix}{number}", "text": text, "image": image})
    return Dataset.from_list(made, features=FEATURES)


class Mixed(AbsTaskRetrieval):
    """Queries and candidates of all three modalities in one pool."""

    metadata = TaskMetadata(
        name="Mixed",
        dataset={"path": "none", "revision": "1"},
        description="offline",
        type="Retrieval",
        category="it2it",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_10",
        **dict.fromkeys(
            "reference date domains task_subtypes license annotations_creators dialect sample_creation "
            "bibtex_citation".split()
        ),
    )

    def load_data(self, **more):
        """Make everything in memory."""
        kinds = ("image", "text", "image_text")
        corpus = rows("c", [kinds[k % 3] for k in range(N)], 0)
        queries = rows("q", [kinds[k % 3] for k in range(9)], 1)
        relevant = {f"q{k}": {f"c{(7 * k + j) % N}": 1 for j in range(3)} for k in range(9)}
        split = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


def test_hit_rates_are_ours(model, tmp_path):
    search, task = GCLSearch(model, "cpu"), Mixed()
    task.load_data()
    result = mteb.evaluate(search, task, cache=None, encode_kwargs={}, prediction_folder=tmp_path / "predictions")
    scores = result.task_results[0].scores["test"][0]
    split = task.dataset["default"]["test"]
    search.index(split["corpus"])
    run = search.search(split["queries"], top_k=N)
    measures = [f"Success@{k}" for k in (1, 5, 10)]
    ours = evaluate(run, split["relevant_docs"], measures)
    assert 0 < ours["Success@10"] < 1
    for k in (1, 5, 10):
        assert scores[f"hit_rate_at_{k}"] == pytest.approx(ours[f"Success@{k}"], abs=1e-5)
    assert {len(found) for found in run.values()} == {N}


def test_listed_candidates_alone_are_ranked(model):
    task = Mixed()
    task.load_data()
    split = task.dataset["default"]["test"]
    search = GCLSearch(model, "cpu")
    search.index(split["corpus"])
    everything = search.search(split["queries"], top_k=N)
    listed = {f"q{k}": [f"c{j}" for j in range(k, k + 5)] for k in range(9)}
    found = search.search(split["queries"], top_k=3, top_ranked=listed)
    for query, own in found.items():
        order = [
            name for name in sorted(everything[query], key=everything[query].get, reverse=True) if name in listed[query]
        ]
        assert list(own) == order[:3]
    with pytest.raises(UserError, match="lists candidate 'c99'"):
        search.search(split["queries"], top_k=3, top_ranked={"q0": ["c99"]})
