import pytest

from gcl.common.errors import UserError
from gcl.report.glance import glance
from gcl.score.score import COLUMNS


def test_means_of_what_is_there(tmp_path, capsys, root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="holds no scores yet"):
        glance(tmp_path, "*")
    for recipe, modes in (("cl", ["none"]), ("gcl", ["none", "center"])):
        folder = tmp_path / "scores/clip_lite" / recipe / "clipart9"
        folder.mkdir(parents=True)
        lines = [
            f"clip_lite,{recipe},{seed},clipart9,{task},global,{mode},{measure},{value},0,1,9"
            for mode in modes
            for seed, task, value in ((0, "i_i", 0.5), (0, "i_t", 0.25), (1, "i_i", 0.7), (1, "i_t", 0.55))
            for measure in ("Success@10", "Success@1")
        ]
        (folder / "scores.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    glance(tmp_path, "*")
    shown = capsys.readouterr().out
    assert "clipart9: Success@10" in shown
    assert "| clip_lite cl | 50.0 | – |" in shown
    assert "| clip_lite gcl | 50.0 | 50.0 |" in shown
    with pytest.raises(UserError, match="holds no scores yet"):
        glance(tmp_path, "vista_lite")
    (folder / "scores.csv").write_text("recipe,measure\ngcl,Success@10\n")
    with pytest.raises(UserError, match=r"scores.csv has columns \['recipe', 'measure'\], expected \['backbone'"):
        glance(tmp_path, "*")
