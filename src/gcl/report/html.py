"""The self-contained page: tables, figures, and for a few queries what was found, with pictures."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gcl.data.images import open_image
from gcl.data.prepared import PreparedBenchmark
from gcl.data.records import NO_TEXT, read_parquet
from gcl.retrieve.run_file import Ranking
from gcl.score.statistics import task_label

THUMBNAIL = 72  # pixels
SHOWN = 5  # candidates per query
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
figure{margin:1.5rem 0}figure svg{max-width:100%;height:auto}figcaption{color:#555;font-size:13px}
.query{display:grid;grid-template-columns:9rem 1fr;gap:.3rem .8rem;border-top:1px solid #ccc;padding:.6rem 0}
.row{display:flex;gap:.4rem;flex-wrap:wrap}.recipe{font-size:12px;color:#555}
.item{width:7.4rem;border:1px solid #ddd;border-radius:4px;padding:.3rem;font-size:11px;line-height:1.25;overflow-wrap:anywhere}
.hit{border:2px solid #2e8b57;background:#eef8f1}.hit::before{content:"✓ hit";color:#2e8b57;font-weight:600}
.picture{width:72px;height:72px;background-size:contain;background-repeat:no-repeat}
nav a{margin-right:.8rem}
"""


class Shown(NamedTuple):
    """An item as the page shows it."""

    location: str | None
    text: str | None


class Pictures:
    """Embeds each picture once, as a CSS class."""

    def __init__(self) -> None:
        self.classes: dict[str, str] = {}
        self.rules: list[str] = []

    def css_class(self, location: str) -> str:
        """Return the class that shows the picture at a location."""
        if location not in self.classes:
            image = open_image(location)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=75)
            data = base64.b64encode(buffer.getvalue()).decode()
            self.classes[location] = f"p{len(self.classes)}"
            self.rules.append(f".{self.classes[location]}{{background-image:url(data:image/webp;base64,{data})}}")
        return self.classes[location]


def shown_items(prepared: Path, bench: PreparedBenchmark) -> dict[tuple[str, str], Shown]:
    """Return what there is to see of each (table, item id)."""
    locations = read_parquet(prepared / "locations.parquet")["location"].to_pylist()
    texts = read_parquet(prepared / "texts.parquet")["text"].to_pylist()
    return {
        (name, item): Shown(locations[images[0]] if images else None, None if text == NO_TEXT else texts[text])
        for name, table in bench.tables.items()
        for item, images, text in zip(
            table.ids.to_pylist(), table.image_rows.to_pylist(), table.text_rows.tolist(), strict=True
        )
    }


def item_html(item: Shown, pictures: Pictures, is_hit: bool = False) -> str:
    """Show one item."""
    picture = f'<div class="picture {pictures.css_class(item.location)}"></div>' if item.location else ""
    text = f"<div>{html.escape(item.text[:120])}</div>" if item.text else ""
    return f'<div class="item{" hit" if is_hit else ""}">{picture}{text}</div>'


def gallery(
    prepared: Path, bench: PreparedBenchmark, tops: dict[str, dict[str, Ranking]], per_task: int, pictures: Pictures
) -> str:
    """Show a few queries of each task with the first candidates of each recipe, global pool, hits marked."""
    shown = shown_items(prepared, bench)
    table_of = {
        item: name
        for name in {n for t in bench.tasks for n in t.pools["global"]}
        for item in bench.tables[name].ids.to_pylist()
    }
    parts = []
    for task in bench.tasks:
        parts.append(f'<h3 id="{task.name}">{task_label(task.name)}</h3>')
        ids = bench.queries(task)
        for row in range(0, len(ids), max(1, len(ids) // per_task))[:per_task]:
            good = bench.qrels[task.name].get(ids[row], {})
            parts.append(f'<div class="query"><div>{item_html(shown[task.queries, ids[row]], pictures)}</div><div>')
            for recipe, top in tops.items():
                candidates = top[task.name].candidates[row][:SHOWN]
                cells = "".join(item_html(shown[table_of[c], c], pictures, c in good) for c in candidates)
                parts.append(f'<div class="recipe">{html.escape(recipe)}</div><div class="row">{cells}</div>')
            parts.append("</div></div>")
    return "\n".join(parts)


def table_html(text: str) -> str:
    """Turn the Markdown tables and paragraphs that tables.py writes into HTML."""
    parts: list[str] = []
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("|"):
            cells = [html.escape(cell.strip()) for cell in line.strip("|").split("|")]
            if set(line) <= set("|-: "):
                continue
            tag = "th" if not lines[i - 1].startswith("|") else "td"
            opening = "<table>" if tag == "th" else ""
            closing = "" if i + 1 < len(lines) and lines[i + 1].startswith("|") else "</table>"
            parts.append(opening + "<tr>" + "".join(f"<{tag}>{c}</{tag}>" for c in cells) + "</tr>" + closing)
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            parts.append(f"<h{level + 1}>{html.escape(line.lstrip('# '))}</h{level + 1}>")
        elif line:
            parts.append(f"<p>{html.escape(line)}</p>")
    return "\n".join(parts)


def inline_figures(folder: Path, captions: dict[str, str]) -> str:
    """Put figures into the page; ids are made unique, since every SVG counts its own from one."""
    parts = []
    for number, (name, caption) in enumerate(captions.items()):
        svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
        svg = svg[svg.index("<svg") :]
        for before in ('id="', 'href="#', "url(#"):
            svg = svg.replace(before, f"{before}f{number}-")
        parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "\n".join(parts)


def page(title: str, sections: Iterable[tuple[str, str]], pictures: Pictures) -> str:
    """Assemble the page; it loads nothing from elsewhere."""
    sections = list(sections)
    links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, (name, _) in enumerate(sections))
    body = "\n".join(f'<h2 id="s{i}">{html.escape(name)}</h2>\n{text}' for i, (name, text) in enumerate(sections))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{"".join(pictures.rules)}</style></head>\n'
        f"<body><h1>{html.escape(title)}</h1><nav>{links}</nav>\n{body}</body></html>\n"
    )
