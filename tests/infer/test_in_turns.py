"""Items of texts and images in turns: read in that order, as if written out token by token."""

import numpy as np
import pytest
import torch

from gcl.common.arrays import MODALITIES
from gcl.common.files import write_json
from gcl.data.in_turns import InTurns, items_in_turns, pieces
from gcl.data.items import Contents, Item, Qrel, Task, write_benchmark
from gcl.data.prepared import read_benchmark
from gcl.data.records import read_parquet
from gcl.export.bundle import bundle
from gcl.export.graphs import head_graph
from gcl.infer.encoder import open_encoder, run_batches
from gcl.infer.in_turns import encode_in_turns
from gcl.infer.infer import infer
from gcl.infer.model_folder import read_export
from gcl.infer.session import open_session
from gcl.models import family
from gcl.prepare.prepare import prepare_pairs
from gcl.retrieve.item_vectors import distinct_items, unit_vectors
from gcl.retrieve.retrieve import read_source
from support.arrays import HASHES
from support.models import row_of
from support.training import exported
from support.workflow import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model as torch has it and exported, and some pictures."""
    folder = tmp_path_factory.mktemp("in_turns")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 8, folder / "pairs")
    onnx = exported("in_turns", folder, folder / "pairs", calibrated=False)
    built = family("vista").build(row_of("in_turns", folder), folder)
    return built, onnx, read_parquet(folder / "pairs/locations.parquet")["location"].to_pylist()


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [
        ("mix it, and bake", (0, 7), [0, "mix it,", 1, "and bake"]),
        ("a b", (3, 3), ["a b", 0, 1]),
        ("a b", (1, 0), [1, "a", 0, "b"]),
        ("a", (0,), [0, "a"]),
    ],
)
def test_an_item_is_cut_where_its_images_stand(text, places, expected):
    assert pieces(text, places) == expected


def by_hand(model, tokens, row, ids_of, start, end, limit):
    """Read one item: all vectors in their order, nothing padded."""
    table = model.text.embeddings.word_embeddings.weight
    kind = model.text.embeddings.token_type_embeddings.weight[0]
    parts = [table[[start]]]
    for piece in row:
        parts.append(tokens[piece] - kind if isinstance(piece, int) else table[ids_of(piece)])
    read = torch.cat([torch.cat(parts)[: limit - 1], table[[end]]])[None]
    states = model.text(inputs_embeds=read, position_ids=torch.arange(read.shape[1])[None]).last_hidden_state
    return torch.nn.functional.normalize(states[0, 0], dim=0)


def test_the_graph_reads_them_as_if_written_out(made, rng):
    built, onnx, _ = made
    model = open_encoder(onnx, "cpu", 1)
    assert model.positions == 64
    tokens = rng.normal(size=(3, 4, 48)).astype(np.float32)
    items = [
        ([0, 2], "w1 w2 w3 w4", (2, 5)),
        ([1], "w5", (2,)),
        ([2, 2, 0], "w7 w8", (0, 2, 5)),
        ([0, 1], f"{'w9 ' * 22}".strip(), (0, 3)),
        ([0, 1, 2] * 5, "w1 w2", tuple([0] * 15)),  # longer than the positions there are
    ]
    found = encode_in_turns(model, tokens, items)
    tokenizer = built.tokenizer
    start, end = tokenizer.encode("").ids[:2]

    def ids_of(text):
        tokenizer.no_padding()
        return tokenizer.encode(text).ids[1:-1]

    with torch.inference_mode():
        for vector, (images, text, places) in zip(found, items, strict=True):
            own = torch.from_numpy(tokens[images])
            wanted = by_hand(built.model, own, pieces(text, places), ids_of, start, end, 64)
            np.testing.assert_allclose(vector, wanted.numpy(), atol=2e-6)


def test_a_bundle_reads_them_too(made, rng, tmp_path):
    _, towers, _ = made
    about, heads = read_export(towers), tmp_path / "heads"
    heads.mkdir()
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 48), (16, 32)))
    for modality in MODALITIES:
        head_graph(first, None, second, heads / f"{modality}.onnx")
    more = {"kind": "heads", "graphs": {m: {"file": f"{m}.onnx"} for m in MODALITIES}, "towers": about["graphs"]}
    write_json(heads / "export.json", {k: v for k, v in about.items() if k != "positions"} | more)
    bundle(towers, heads, None, tmp_path / "m")
    model, plain = open_encoder(tmp_path / "m", "cpu", 1), open_encoder(towers, "cpu", 1)
    assert model.positions == plain.positions == 64
    tokens, items = rng.normal(size=(3, 4, 48)).astype(np.float32), [([0, 2], "w1 w2 w3 w4", (2, 5)), ([1], "w5", (2,))]
    expected = run_batches(open_session(heads / "image_text.onnx", "cpu", 1), encode_in_turns(plain, tokens, items))
    np.testing.assert_allclose(encode_in_turns(model, tokens, items), expected, rtol=1e-4, atol=1e-4)


def test_one_image_before_its_text_is_read_as_any(made, rng):
    built, *_ = made
    tokens, ids = torch.randn(2, 4, 48), torch.randint(4, 200, (2, 6))
    ids[1, 4:] = built.model.pad
    order = torch.tensor([[4, 0, 1, 2, 3, 5, 6, 7, 8, 9], [4, 0, 1, 2, 3, 5, 6, 7, -1, -1]])
    with torch.inference_mode():
        torch.testing.assert_close(built.model.fuse_in_turns(tokens, ids, order), built.model.fuse(tokens, ids))


def test_order_matters_to_models_that_read_it_and_not_to_others(made, tmp_path):
    _, onnx, pictures = made
    items = [
        Item("0", "w1 w2", tuple(pictures[:2]), places=(0, 2)),
        Item("1", "w1 w2", tuple(pictures[:2]), places=(2, 5)),
        Item("2", "w1 w2", tuple(pictures[:2])),
        Item("3", "w1 w2", tuple(pictures[:2]), places=(0, 2)),
    ]
    contents = Contents(
        {"query": items[:1], "pool": items},
        [Task("t", "image_text", "image_text", "query", {"all": ["pool"]})],
        [Qrel("t", "0", "1")],
    )
    (tmp_path / "p").mkdir()
    write_benchmark(tmp_path / "p", contents, {}, HASHES)
    assert items_in_turns(tmp_path / "p") == [InTurns((0, 1), 0, (0, 2)), InTurns((0, 1), 0, (2, 5))]
    infer(onnx, tmp_path / "p", None, "cpu", 1, False, False, (0, 1), tmp_path / "e")
    source = read_source(tmp_path / "p", [tmp_path / "e"], None, "native")
    pool = read_benchmark(tmp_path / "p").tables["pool"]
    distinct = distinct_items([pool])
    assert distinct.rows.tolist() == [0, 1, 2, 0]
    vectors = unit_vectors(distinct, slice(None), source, "none", None)
    np.testing.assert_allclose(vectors[:2], np.load(tmp_path / "e/in_turns.npy"), atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    apart = np.load(tmp_path / "e/image_text.npy")
    mean = apart[:2].mean(0) / np.linalg.norm(apart[:2].mean(0))
    np.testing.assert_allclose(vectors[2], mean, atol=1e-6)
    (tmp_path / "e/in_turns.npy").unlink()  # as of a model without such a graph
    source = read_source(tmp_path / "p", [tmp_path / "e"], None, "native")
    pooled = unit_vectors(distinct, slice(None), source, "none", None)
    np.testing.assert_allclose(pooled, np.tile(mean, (3, 1)), atol=1e-6)
