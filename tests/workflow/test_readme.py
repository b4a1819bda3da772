import csv
import json
import re
import subprocess


def rows(text):
    """The lines of Markdown tables as lists of cells."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


def committed(root, path):
    """A file as it was committed: the tables in the working tree may have just been made, on another machine."""
    done = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=root, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else (root / path).read_text()


def test_every_result_in_the_readme_is_in_the_tables(root):
    summary = {tuple(row) for row in rows(committed(root, "results/tables/summary.md"))}
    section = (root / "README.md").read_text().partition("<!-- results -->")[2].partition("<!-- end -->")[0]
    shown = [row for row in rows(section) if re.search(r"\d", row[1])]
    assert {row[0].strip("`").split()[0] for row in shown} == {"clip_lite", "vista_lite"}
    for row in shown:
        assert any(full[0] == row[0].strip("`") and set(row[1:]) <= set(full) for full in summary), row


def test_the_combinations_in_the_docs_are_in_their_tables(root):
    parts = committed(root, "results/emoji/tables/summary.md").split("# emoji9")
    found = [{row[0]: row for row in rows(part)} for part in parts]
    section = (root / "docs/ramp.md").read_text().partition("<!-- combined -->")[2].partition("<!-- end -->")[0]
    for name, *values in rows(section)[2:]:
        assert values == [part[name.strip("`")][column] for part in found for column in (2, 3)]


def test_every_number_of_points_in_readme_and_ramp_is_in_the_tables(root):
    text = (root / "README.md").read_text() + (root / "docs/ramp.md").read_text()
    files = ("results/tables/summary.md", "results/emoji/tables/summary.md", "results/emoji/tables/controls.md")
    summary = "".join(committed(root, file) for file in files)
    quoted = re.findall(r"(?<![\w.])(-?\d+\.\d) (?:points|%)", text)
    assert quoted
    assert all(re.search(rf"(?<![\d.]){re.escape(n)} [±\[]", summary) for n in quoted), quoted


def test_every_command_of_the_makefile_in_the_readme_exists(root):
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", (root / "README.md").read_text(), re.MULTILINE)) <= targets


def test_the_memory_in_the_docs_is_what_the_benchmark_wrote(root):
    found = json.loads(committed(root, "results/benchmarks/retrieval_memory.json"))["rows"]
    forms = (("peak_mb", ".0f"), ("seconds", ".1f"))
    columns = [(stage, key, form) for stage in ("retrieve", "score") for key, form in forms]
    expected = [[f"{row['candidates']:,}", *(f"{row[s][k]:{form}}" for s, k, form in columns)] for row in found]
    section = (root / "docs/reliability.md").read_text().partition("<!-- memory -->")[2].partition("<!-- end -->")[0]
    assert rows(section)[2:] == expected


def test_the_example_of_own_pairs_is_what_the_run_wrote(root):
    section = (root / "docs/pairs.md").read_text().partition("<!-- tuxpaint -->")[2].partition("<!-- end -->")[0]
    written = rows(committed(root, "results/tuxpaint/tables/summary.md"))
    assert len(rows(section)) == 8
    for row in rows(section)[2:]:
        assert [f"clip_lite {row[0]}", *row[1:]] in written


def test_the_cut_offs_in_the_docs_are_what_the_benchmark_wrote(root):
    (found,) = json.loads(committed(root, "results/benchmarks/cutoff.json"))["tables"]
    section = (root / "docs/search.md").read_text().partition("<!-- cutoff -->")[2].partition("<!-- end -->")[0]
    assert rows(section)[0] == found["columns"]
    assert rows(section)[2:] == found["rows"]


def test_every_test_that_the_docs_name_exists(root):
    named = set(re.findall(r"`(test_[\w*]+(?:\.py)?)`", (root / "docs/reliability.md").read_text()))
    files = {path.name: path.read_text() for path in (root / "tests").rglob("test_*.py")}
    for name in named:
        text = "\n".join(files.values())
        assert name in files or re.search(rf"def {name.replace('*', '.*')}\(", text), name
    assert len(named) > 20


def test_the_tables_of_ramp_are_what_was_written(root):
    text = (root / "docs/ramp.md").read_text()
    for mark, file in (("losses", "losses_tried"), ("cost", "combined")):
        (found,) = json.loads(committed(root, f"results/benchmarks/{file}.json"))["tables"]
        section = text.partition(f"<!-- {mark} -->")[2].partition("<!-- end -->")[0]
        assert rows(section)[0] == found["columns"]
        assert rows(section)[2:] == found["rows"]
    written = rows(committed(root, "results/emoji/tables/summary.md"))
    for _, *values in rows(text.partition("<!-- steps -->")[2].partition("<!-- end -->")[0])[2:]:
        assert all(any(value in row for row in written) for value in values)


def test_the_ladder_is_drawn_from_the_tables(root):
    found = {}
    for benchmark in ("clipart9", "emoji9"):
        for row in csv.DictReader(committed(root, f"results/emoji/tables/{benchmark}.csv").splitlines()):
            found.setdefault(benchmark, set()).add(row["mean"])
    shown = list(csv.DictReader((root / "docs/ladder.csv").read_text().splitlines()))
    assert len(shown) == 40
    assert all(any(float(row["mean"]) == float(mean) for mean in found[row["benchmark"]]) for row in shown)


def test_the_tables_of_the_neighbours_are_what_was_written(root):
    def means(folder):
        found = set()
        for benchmark in ("clipart9", "emoji9"):
            lines = committed(root, f"results/{folder}/tables/{benchmark}.csv").splitlines()
            for row in csv.DictReader(lines):
                low, high = (f"{float(row[key] or 'nan'):.1f}" for key in ("ci_low", "ci_high"))
                found.add(f"{float(row['mean']):.1f} [{low}, {high}]")
        return found

    text = (root / "docs/neighbours.md").read_text()
    for mark, folder in (("neighbours", "neighbours"), ("image tokens", "image_tokens"), ("calibrations", "emoji")):
        shown = rows(text.partition(f"<!-- {mark} -->")[2].partition("<!-- end -->")[0])
        assert len(shown) > 8
        assert {cell for row in shown[2:] for cell in row[1:]} - {"–"} <= means(folder)


def test_the_tables_of_scale_are_what_was_written(root):
    text = (root / "docs/scale.md").read_text()
    for mark, found in zip(
        ("scale", "approximate"), json.loads(committed(root, "results/benchmarks/scale.json"))["tables"], strict=True
    ):
        section = text.partition(f"<!-- {mark} -->")[2].partition("<!-- end -->")[0]
        assert rows(section)[0] == found["columns"]
        assert rows(section)[2:] == found["rows"]


def test_the_table_of_all_neighbours_is_the_written_one(root):
    written = committed(root, "results/eleven/neighbours.md")
    assert len(rows(written)) > 12
    shown = (root / "docs/neighbours.md").read_text().partition("<!-- eleven -->")[2].partition("<!-- end -->")[0]
    assert rows(shown) == rows(written)
