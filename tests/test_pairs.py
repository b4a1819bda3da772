import json

import pytest

from gcl.pairs import lcs558k, table
from gcl.records import Pair


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
        Pair("line 1", str(tmp_path / "a.png"), ("A cat",)),
        Pair("line 2", str(tmp_path / "b.png"), ("Dogs, two",)),
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
