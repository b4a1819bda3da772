"""Triplets beside the pairs: their loss against a loop, and that it is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcl.common.errors import UserError
from gcl.config.recipes import Recipe, Triplets
from gcl.data.triplets import COLUMNS, write_table
from gcl.losses.composed import slerp
from gcl.train.heads.composed import Composed, composed_batch_loss, read_composed
from gcl.train.heads.head import apply_folded
from support.heads import CL, KEYS, PAIRS, heads, made_up


@pytest.fixture(scope="module")
def data():
    return made_up()


def composed_data(data):
    """The pairs' own images and texts as triplets: the next image with the next text means the one itself."""
    rows, images = torch.arange(PAIRS), data.images[:PAIRS]
    columns = {
        "query_image": rows.roll(1), "between_image": torch.where(rows % 2 == 0, rows.roll(2), -1), "query_text": rows,
        "candidate_image": rows, "candidate_text": torch.where(rows % 3 == 0, rows, -1),
    }  # fmt: skip
    return data._replace(composed=Composed(images, data.text, columns, [[(i + 5) % PAIRS] for i in range(PAIRS)]))


@pytest.mark.parametrize("fusion", ["sum_raw", "sum_unit"])
def test_the_loss_of_triplets_is_that_of_a_loop(data, fusion):
    data = composed_data(data)
    data.composed.rows["candidate_image"] = torch.arange(PAIRS) % 6  # several queries mean one candidate
    state, _ = heads(data, Recipe(loss=CL, epochs=1, batch_size=32, learning_rate=1e-3))
    apply = {m: (lambda x, m=m: apply_folded(KEYS[m], state, x)) for m in ("image", "text")}
    batch = data.composed.batch(8, torch.Generator().manual_seed(3))

    def item(image, text, between=-1):
        parts = []
        if image >= 0:
            one = apply["image"](data.images[image][None])
            parts.append(one if between < 0 else slerp(one, apply["image"](data.images[between][None]), 0.25))
        if text >= 0:
            parts.append(apply["text"](data.text[text][None]))
        unit = [x / x.norm() if fusion == "sum_unit" and len(parts) > 1 else x for x in parts]
        whole = sum(unit)[0]
        return whole / whole.norm()

    columns = [getattr(batch, name).tolist() for name in ("query_image", "query_text", "between_image")]
    candidates = [*zip(batch.candidate_image.tolist(), batch.candidate_text.tolist(), strict=True)]
    others = candidates + [(row, -1) for row in batch.negatives.tolist()]
    assert len({*candidates}) < len(candidates)
    terms = []
    for j, query in enumerate(zip(*columns, strict=True)):
        logits = [float(item(*query) @ item(*other)) / 0.1 for other in others]
        kept = [x for k, x in enumerate(logits) if k == j or others[k] != others[j]]
        terms.append(np.log(np.sum(np.exp(kept))) - logits[j])
    found = composed_batch_loss(batch, apply, fusion, 0.25, 0.1)
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_triplets_are_learned_and_leave_other_recipes_as_they_are(data):
    plain = Recipe(loss=CL, epochs=20, batch_size=32, learning_rate=5e-3)
    data_with = composed_data(data)
    assert all(
        torch.equal(a, b) for a, b in zip(*(heads(d, plain)[0].values() for d in (data, data_with)), strict=True)
    )
    batch = data_with.composed.batch(PAIRS, torch.Generator().manual_seed(3))

    def loss(recipe):
        state, _ = heads(data_with, recipe)
        apply = {m: (lambda x, m=m: apply_folded(KEYS[m], state, x)) for m in ("image", "text")}
        return composed_batch_loss(batch, apply, "sum_raw", 0.5, 0.1).item()

    assert loss(replace(plain, triplets=Triplets())) < 0.8 * loss(plain)


def test_triplets_that_are_not_there_are_asked_for(data):
    with pytest.raises(UserError, match="the recipe needs --triplets"):
        heads(data, Recipe(loss=CL, epochs=1, batch_size=32, learning_rate=1e-3, triplets=Triplets()))


def test_features_of_other_triplets_or_towers_are_refused(tmp_path):
    for name in ("triplets", "features", "pairs"):
        (tmp_path / name).mkdir()
    write_table(tmp_path / "triplets", {name: [0, 3] for name in COLUMNS}, [[], []])
    np.save(tmp_path / "pairs/image.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "features/text.npy", np.zeros((2, 3), np.float32))
    for name, towers in (("features", "{}"), ("pairs", "{1}")):
        (tmp_path / name / "towers.json").write_text(towers)
    folders = [tmp_path / name for name in ("triplets", "features", "pairs")]
    with pytest.raises(UserError, match="come from different towers"):
        read_composed(*folders)
    (tmp_path / "pairs/towers.json").write_text("{}")
    with pytest.raises(UserError, match="has fewer rows than .* names as query_text"):
        read_composed(*folders)
