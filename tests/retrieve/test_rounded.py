"""The copy in 8 bits: its bounds, its files, and processors that saturate."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import gcl
from gcl.common.errors import UserError
from gcl.retrieve.scan import rounded as module
from gcl.retrieve.scan.rounded import Rounded, fill, open_rounded, rounded, write_rounded
from support.arrays import unit_rows


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    for name in ("gcl.retrieve.scan.rounded.BLOCK", "gcl.retrieve.search.BLOCK"):
        monkeypatch.setattr(name, 64)


@pytest.mark.parametrize(("width", "n"), [(4, 5), (256, 5), (256, 2), (2000, 1)])
def test_cosines_are_off_by_no_more_than_is_said(rng, width, n):
    queries, candidates = unit_rows(rng, n, width), unit_rows(rng, 130, width)
    exact = queries.astype(np.float64) @ candidates.T.astype(np.float64)
    for start, near in zip((0, 64, 128), rounded(candidates).blocks(queries), strict=True):
        off = np.abs(near.cosines - exact[:, start : start + 64])
        said = near.off(np.arange(n)[:, None], np.arange(off.shape[1])[None])
        assert (off <= said).all()
        assert off.max() > said.min() / width
        assert (said <= near.most()[:, None]).all()


def test_search_takes_it_and_reads_only_what_may_be_among_the_best(rng):
    class Counted(np.ndarray):
        read = 0

        def __getitem__(self, rows):
            Counted.read += len(rows) if isinstance(rows, np.ndarray) else 0
            return super().__getitem__(rows)

    queries, pool = unit_rows(rng, 2, 48), unit_rows(rng, 2000, 48)
    copy = gcl.rounded(pool)
    plain, found = gcl.search(queries, pool, k=5), gcl.search(queries, pool.view(Counted), k=5, rounded=copy)
    np.testing.assert_array_equal(found.rows, plain.rows)
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert 10 <= Counted.read < 400
    with pytest.raises(UserError, match=r"rounded was made of vectors \(2000, 48\), candidates are \(1999, 48\)"):
        gcl.search(queries, pool[:1999], rounded=copy)
    with pytest.raises(UserError, match=r"candidates are \(2000, 32\)"):
        gcl.search(unit_rows(rng, 2, 32), unit_rows(rng, 2000, 32), rounded=copy)


def test_it_is_stored_and_mapped(rng, tmp_path):
    vectors = unit_rows(rng, 150, 8)
    write_rounded(tmp_path, vectors)
    found, made = open_rounded(tmp_path), rounded(vectors)
    np.testing.assert_array_equal(found.codes, made.codes)
    np.testing.assert_array_equal(found.facts, made.facts)
    assert isinstance(found.codes, np.memmap)
    assert (len(found), found.codes.shape) == (150, (3, 8, 64))


def test_the_graph_is_what_onnx_makes():
    kinds = {"a": (TensorProto.UINT8, ["q", "d"]), "b": (TensorProto.INT8, ["d", "b"])}
    inputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("found", TensorProto.INT32, ["q", "b"])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["found"])], "product", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert onnx.load_from_string(module.PRODUCT) == model


def test_an_empty_pool_has_a_copy_and_what_is_no_pool_has_none(rng):
    empty = np.empty((0, 8), np.float32)
    assert gcl.search(unit_rows(rng, 1, 8), empty, rounded=rounded(empty)).rows.shape == (1, 0)
    with pytest.raises(UserError, match=r"vectors are \(8,\), expected \(C, D\)"):
        rounded(np.ones(8, np.float32))


def test_nan_is_an_error(rng):
    vectors = unit_rows(rng, 5, 4)
    vectors[3, 2] = np.nan
    with pytest.raises(UserError, match="vectors hold NaN or infinity"):
        rounded(vectors)


def test_a_product_that_saturates_is_noticed(monkeypatch):
    class Saturating:
        def run(self, _, inputs):
            pairs = inputs["a"].astype(int)[:, :, None] * inputs["b"].astype(int)[None]
            return [np.clip(pairs[:, ::2] + pairs[:, 1::2], -(2**15), 2**15 - 1).sum(1)]

    monkeypatch.setattr(module, "product", Saturating)
    module.saturates.cache_clear()
    assert module.saturates()
    most = np.full((1, 8), 127, np.uint8), np.full((8, 4), 127, np.int8)  # 7 bits never do
    assert (Saturating().run(None, {"a": most[0], "b": most[1]})[0] == 8 * 127 * 127).all()
    module.saturates.cache_clear()


def test_a_copy_says_how_many_it_holds(rng):
    codes, facts = np.zeros((1, 8, 64), np.int8), np.empty((3, 10), np.float32)
    fill(codes, facts, unit_rows(rng, 10, 8))
    assert len(Rounded(codes, facts)) == 10
