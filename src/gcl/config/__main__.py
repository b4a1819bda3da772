"""Print the JSON Schema of config.yaml, for editors and for Snakemake's own check."""

import argparse
import json

from gcl.config.project import schema


def main() -> None:
    """Run from the command line."""
    argparse.ArgumentParser(
        prog="gcl config",
        description=__doc__,
        epilog="example: gcl config > workflow/schemas/config.schema.json",
    ).parse_args()
    print(json.dumps(schema(), indent=2))


if __name__ == "__main__":
    main()
