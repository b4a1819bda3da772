"""The second stage that reads query and candidate together, and what its lists teach."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.common.files import sha256_file
from gcl.config.backbones import Preprocess
from gcl.config.recipes import Distil, Recipe
from gcl.data.records import Pair, write_pairs
from gcl.rerank.features import Items
from gcl.rerank.joint import Contents, ImageTokens, JointReranker
from gcl.rerank.lists import RankedLists
from gcl.rerank.networks.adapter import Adapter
from gcl.rerank.networks.fit import Trained, chosen_share, drawn, export_joint, sides, train_joint
from gcl.rerank.networks.joint import TOKENS, Joint
from gcl.rerank.teach import arrays_of
from gcl.retrieve.run_file import Ranking
from gcl.train.heads.distilled import Taught, distil_loss, read_taught, taught_loss
from gcl.train.heads.head import apply_folded
from support.heads import CL, KEYS, heads, made_up

WIDTH, PAD = 16, 0


@pytest.fixture(scope="module", params=[Joint, Adapter])
def model(request):
    """A network on a BERT of random weights, small, with a last layer that is not zero."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    text = AutoConfig.for_model(
        "bert", hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, vocab_size=40
    )
    network = request.param(AutoModel.from_config(text, add_pooling_layer=False), start=1, pad=PAD)
    if request.param is Joint:
        torch.nn.init.normal_(network.linear.weight)
    return network.eval()


@pytest.fixture
def contents(rng):
    """Five images of nine tokens, and texts of unlike lengths."""
    images = rng.normal(size=(5, 9, WIDTH)).astype(np.float32)
    return Contents(images, [rng.integers(2, 40, n).tolist() for n in (1, 3, 5, 9, 2, 7)], PAD)


def lists_of(rng, queries=4, k=6):
    """Lists of items of all modalities; the last is shorter."""
    lengths = [*[k] * (queries - 1), k - 2]
    n = sum(lengths)

    def items(size):
        kinds = rng.integers(0, 3, size)
        images, texts = rng.integers(0, 5, size), rng.integers(0, 6, size)
        return Items(np.where(kinds == 1, -1, images), np.where(kinds == 0, -1, texts), kinds)

    ranking = Ranking(0, "t", "global", "center_zscore", [[str(i) for i in range(m)] for m in lengths], [])
    asked = Items(*(np.repeat(x, lengths) for x in items(queries)))
    return RankedLists(ranking, lengths, asked, items(n), rng.normal(size=n).astype(np.float32))


def adapted_by_hand(model, contents, query, candidate):
    """Look at one pair with nothing masked."""
    sides = []
    for image, text in (query, candidate):
        parts = [torch.from_numpy(contents.images[[image]])] if image >= 0 else []
        words = contents.ids[text] if text >= 0 else []
        parts.append(model.text(torch.tensor([[1, *words]])).last_hidden_state)
        sides.append(torch.cat(parts, 1))
    state = model.tokens[None]
    state = state + model.look(state, sides[1], sides[1])[0]
    state = state + model.ask(state, sides[0], sides[0])[0]
    vector, wanted = model.norm(model.mlp(state.mean(1)))[0], sides[0].mean(1)[0]
    return (vector @ wanted / vector.norm() / wanted.norm() / 0.07).item()


def by_hand(model, contents, query, candidate):
    """Read one pair with nothing masked: only the vectors that are there, in their order."""
    if isinstance(model, Adapter):
        return adapted_by_hand(model, contents, query, candidate)
    words, parts, types = model.text.embeddings.word_embeddings, [], []
    parts.append(words(torch.tensor([[1]])))
    types.append(0)
    for kind, (image, text) in enumerate((query, candidate)):
        if image >= 0:
            parts.append(model.compress(torch.from_numpy(contents.images[[image]])))
            types += [kind] * TOKENS
        if text >= 0:
            parts.append(words(torch.tensor([contents.ids[text]])))
            types += [kind] * len(contents.ids[text])
    states = model.text(inputs_embeds=torch.cat(parts, 1), token_type_ids=torch.tensor([types])).last_hidden_state
    return model.linear(states.mean(1))[0, 0].item()


def test_a_pair_is_read_as_if_what_is_absent_were_not_there(model, contents, rng):
    lists = lists_of(rng)
    with torch.inference_mode():
        found = model(*sides(model, lists, np.arange(len(lists.scores)), contents)).numpy()
        for i in range(len(found)):
            query, candidate = ((int(s.images[i]), int(s.texts[i])) for s in (lists.queries, lists.candidates))
            assert found[i] == pytest.approx(by_hand(model, contents, query, candidate), abs=1e-5)


def test_graphs_give_torchs_scores_and_a_pair_is_read_once(model, contents, rng, tmp_path, monkeypatch):
    export_joint(model, contents, tmp_path)
    monkeypatch.setattr("gcl.rerank.joint.read_contents", lambda *_: contents._replace(images=_[2](contents.images)))
    reranker = JointReranker(tmp_path, 0.5, 2.0, tmp_path, tmp_path)
    lists = lists_of(rng)
    with torch.inference_mode():
        read = model(*sides(model, lists, np.arange(len(lists.scores)), contents)).numpy()
    np.testing.assert_allclose(reranker.scores(lists), 2 * read + 0.5 * lists.scores, atol=1e-5)
    monkeypatch.setattr(reranker, "session", None)  # known pairs are not read again
    np.testing.assert_allclose(
        reranker.scores(lists._replace(scores=2 * lists.scores)), 2 * read + lists.scores, atol=1e-5
    )


@pytest.mark.parametrize("model", [Joint], indirect=True)
def test_it_begins_as_the_first_stage_and_learns(model, contents, rng, monkeypatch):
    """What is relevant: the candidate whose text is the query's."""
    monkeypatch.setattr("gcl.rerank.networks.joint.Joint.rate", 1e-2)  # a network that small, of random weights
    monkeypatch.setattr("gcl.rerank.networks.fit.STEPS", 150)
    joint = Joint(model.text, start=1, pad=PAD)
    n, k = 40, 6
    texts = np.array([rng.permutation(6) for _ in range(n)]).ravel()
    none = np.full(n * k, -1)
    queries = np.repeat(rng.integers(0, 6, n), k)
    kinds = np.ones(n * k, int)
    scores = rng.normal(size=n * k).astype(np.float32)
    ranking = Ranking(0, "t", "global", "center_zscore", [], [])
    lists = RankedLists(ranking, [k] * n, Items(none, queries, kinds), Items(none, texts, kinds), scores)
    trained = Trained(lists, texts == queries, np.arange(0, n, 2), np.arange(1, n, 2))

    def hits():
        with torch.inference_mode():
            both = sides(joint, lists, np.arange(n * k), contents)
            found = (joint.weight * torch.from_numpy(scores) + joint(*both)).numpy().reshape(n, k)
        return found, (texts.reshape(n, k)[np.arange(n), found.argmax(1)] == queries[::k]).mean()

    np.testing.assert_array_equal(hits()[0], scores.reshape(n, k))
    assert chosen_share(joint, [trained], contents) == 0  # nothing is read yet
    before = hits()[1]
    train_joint(joint, [trained], contents, 0)
    assert hits()[1] > before + 0.2
    assert chosen_share(joint, [trained], contents) > 0
    torch.nn.init.normal_(joint.linear.weight)  # reads nonsense
    assert chosen_share(joint, [trained], contents) == 0


def test_a_step_shows_a_relevant_candidate_first_and_others_after(rng):
    lists = lists_of(rng)
    relevant = rng.random(len(lists.scores)) < 0.4
    relevant[[0, 6, 12, 18]], relevant[[1, 7, 13, 19]] = True, False
    trained = Trained(lists, relevant, np.arange(4), np.arange(0))
    places = drawn(trained, np.random.default_rng(0))
    assert relevant[places[:, 0]].all()
    assert not relevant[places[:, 1:]].any()
    assert (places // 6 == places[:, :1] // 6).all()


def test_the_loss_of_a_teacher_is_that_of_a_loop(rng):
    scores = torch.tensor([[2.0, 0.5, -1.0], [1.0, 0.0, -torch.inf]])
    queries, candidates = normalize(torch.randn(2, 4), dim=1), normalize(torch.randn(2, 3, 4), dim=2)
    terms = []
    for j, length in enumerate((3, 2)):
        theirs = np.exp(scores[j, :length].numpy())
        own = np.exp([float(queries[j] @ c) / 0.1 for c in candidates[j, :length]])
        theirs, own = theirs / theirs.sum(), own / own.sum()
        terms.append((theirs * np.log(theirs / own)).sum())
    assert distil_loss(queries, candidates, scores, 0.1).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_what_a_teacher_orders_is_learned(rng):
    """Lists that hold other items than the pairs: the student comes nearer to their order."""
    data = made_up()
    maps = torch.randn(12, 20), torch.randn(12, 14)
    lists = arrays_of(lists_of(rng, 12), 6)
    more = torch.randn(6, 12)
    scores = torch.from_numpy(lists.pop("scores"))
    taught = Taught(more @ maps[0], more @ maps[1], {k: torch.from_numpy(v) for k, v in lists.items()}, 3 * scores)
    plain = Recipe(loss=CL, epochs=20, batch_size=32, learning_rate=5e-3)

    def after(recipe):
        state, _ = heads(data._replace(taught=taught), recipe)
        apply = {m: (lambda x, m=m: apply_folded(KEYS[m], state, x)) for m in ("image", "text")}
        return taught_loss(taught, apply, "sum_raw", 0.1).item()

    assert after(replace(plain, distil=Distil())) < 0.6 * after(plain)
    with pytest.raises(UserError, match="the recipe needs --taught"):
        heads(data, replace(plain, distil=Distil()))


def test_lists_of_another_seed_are_refused(tmp_path):
    (tmp_path / "seed1").mkdir()
    with pytest.raises(UserError, match="has no lists of seed 0"):
        read_taught(tmp_path, 0, tmp_path)


def test_a_reranker_that_reads_asks_for_its_tower(rng, tmp_path):
    from gcl.rerank.rerank import open_reranker

    (tmp_path / "reranker.json").write_text(json.dumps({"kind": "joint", "k": 20, "weight": 2.0, "share": 0}))
    lists = lists_of(rng)
    np.testing.assert_array_equal(open_reranker(tmp_path, None, None).scores(lists), 2 * lists.scores)
    (tmp_path / "reranker.json").write_text(json.dumps({"kind": "joint", "k": 20, "weight": 1.0, "share": 0.5}))
    with pytest.raises(UserError, match="reads image tokens; give --tokens"):
        open_reranker(tmp_path, None, None)


def test_images_are_read_when_they_are_asked_for_and_once(tmp_path):
    shades = list(range(0, 250, 10))
    for n in shades:
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / f"{n}.png")
    pairs = [Pair(str(n), str(tmp_path / f"{n}.png"), ("a",)) for n in shades]
    write_pairs(tmp_path, pairs, {p.image: sha256_file(Path(p.image)) for p in pairs})
    seen = []

    def run(_, inputs):
        seen.append(len(inputs["pixels"]))
        return [inputs["pixels"].mean((2, 3))[:, :, None]]  # (B, 3, 1)

    how = Preprocess(size=8, resize="squash", mean=(0, 0, 0), std=(1, 1, 1))
    graph = SimpleNamespace(run=run)
    model = SimpleNamespace(
        image=graph, preprocess=how, threads=2, batch=4, map=lambda f, batches: [f(x) for x in batches]
    )
    images = ImageTokens(tmp_path, model, lambda x: x * 255)
    assert len(images) == len(shades)
    rows = np.array([7, 3, 7, 24, 0, 11])
    np.testing.assert_allclose(images[rows][:, 0, 0], [shades[row] for row in rows], atol=1e-3)
    assert seen == [4, 1]
    np.testing.assert_allclose(images[np.arange(25)][:, 2, 0], shades, atol=1e-3)
    assert sum(seen) == 25
