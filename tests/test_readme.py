import re


def rows(text):
    """The lines of Markdown tables as lists of cells."""
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]


def test_every_result_in_the_readme_is_in_the_tables(root):
    summary = {tuple(row) for row in rows((root / "results/tables/summary.md").read_text())}
    section = (root / "README.md").read_text().partition("<!-- results -->")[2].partition("<!-- end -->")[0]
    shown = [row for row in rows(section) if re.search(r"\d", row[1])]
    assert {row[0].strip("`").split()[0] for row in shown} == {"clip_lite", "vista_lite"}
    for row in shown:
        assert any(full[0] == row[0].strip("`") and set(row[1:]) <= set(full) for full in summary), row


def test_every_number_of_points_in_the_readme_is_in_the_tables(root):
    text = (root / "README.md").read_text()
    summary = (root / "results/tables/summary.md").read_text()
    quoted = re.findall(r"(?<![\w.])(-?\d+\.\d) (?:points|%)", text)
    assert quoted
    assert all(re.search(rf"(?<![\d.]){re.escape(n)} [±\[]", summary) for n in quoted), quoted


def test_every_command_of_the_makefile_in_the_readme_exists(root):
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (\w+)", (root / "README.md").read_text(), re.MULTILINE)) <= targets
