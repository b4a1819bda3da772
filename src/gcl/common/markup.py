"""Tables as Markdown and LaTeX."""


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first columns hold names, the rest are aligned right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows]) + "\n"


def latex(header: list[str], rows: list[list[str]]) -> str:
    """Return a LaTeX table for the package booktabs."""

    def line(cells: list[str]) -> str:
        return " & ".join(escaped(cell) for cell in cells) + r" \\"

    columns = "l" * 3 + "r" * (len(header) - 3)
    body = [line(header), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body]) + "\n"


SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
} | {character: f"\\{character}" for character in "_%&#${}"}


def escaped(text: str) -> str:
    """Escape what LaTeX would read as commands, one character at a time so that nothing is escaped twice."""
    return "".join(SPECIAL.get(character, character) for character in text)
