"""Score a run and qrels in TREC's formats.

python examples/score_trec.py RUN.trec QRELS.txt Success@10 nDCG@10
"""

import argparse
from pathlib import Path

import gcl


def main() -> None:
    """Print each measure's mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="lines of: query Q0 candidate rank score tag")
    parser.add_argument("qrels", type=Path, help="lines of: query 0 candidate relevance")
    parser.add_argument("measures", nargs="+")
    arguments = parser.parse_args()
    run: dict[str, dict[str, float]] = {}
    for line in arguments.run.read_text(encoding="utf-8").splitlines():
        query, _, candidate, _, score, _ = line.split()
        run.setdefault(query, {})[candidate] = float(score)
    qrels: dict[str, dict[str, int]] = {}
    for line in arguments.qrels.read_text(encoding="utf-8").splitlines():
        query, _, candidate, relevance = line.split()
        qrels.setdefault(query, {})[candidate] = int(relevance)
    for measure, value in gcl.evaluate(run, qrels, arguments.measures).items():
        print(f"{measure} {value:.4f}")


if __name__ == "__main__":
    main()
