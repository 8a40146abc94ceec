"""The consumers' table: `python -m tests.compat.run`, or `make compat`.

Exports stories260k, runs 64 greedy tokens after each of two prompts in every engine of engines.toml, and compares them
with what our runtime says on the same file (and fp32 with the golden texts, which are llama2.c's and transformers').
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path

from export.bundle import export_bundle
from export.precisions import parse_precisions
from model import Checkpoint
from tests.compat.cells import Case, is_ok, run_cells
from tests.compat.environments import REPOSITORY, Engine, NotAvailableError, set_up
from tests.compat.expected import greedy

CHECKPOINT = REPOSITORY.parent / "shared" / "data" / "stories260k"
NEW_TOKENS = 64
PRECISIONS = "fp32,fp16,int8,q8,q4"
PORTABLE_PRECISIONS = "fp32,fp16,int8,q8"

Table = dict[str, dict[str, str]]


def main() -> int:
    """Print the table; 0 where every cell is ok, or is known not to be."""
    args = _parse_args()
    wanted = args.engine or [""]
    if not CHECKPOINT.is_dir():
        print("skipped: the shared data folder is not beside the repository (../shared/data)", file=sys.stderr)
        return 0
    engines = [engine for engine in read_engines() if any(part in engine.name for part in wanted)]
    with tempfile.TemporaryDirectory() as folder:
        table = measure(engines, Path(folder), dict(pair.split("=", 1) for pair in args.python))
    print(json.dumps(table) if args.json else as_markdown(table))
    found = faults(engines, table)
    print("\n".join(found), file=sys.stderr)
    return int(bool(found))


def read_engines() -> list[Engine]:
    """The lines of engines.toml."""
    entries = tomllib.loads((Path(__file__).parent / "engines.toml").read_text())["engine"]
    lists = ("packages", "options")
    return [Engine(**entry | {name: tuple(entry.get(name, ())) for name in lists}) for entry in entries]


def faults(engines: list[Engine], table: Table) -> list[str]:
    """Cells that are not ok, and not known to be."""
    return [
        f"{engine.name}, {precision}: {word}"
        for engine in engines
        for precision, word in table[engine.name].items()
        if not is_ok(word) and precision not in engine.known
    ]


def measure(engines: list[Engine], folder: Path, pythons: dict[str, str]) -> Table:
    """Engine -> precision -> what became of it."""
    bundles = {portable: _export(folder, portable) for portable in sorted({engine.portable for engine in engines})}
    table: Table = {}
    for engine in engines:
        print(f"running {engine.name}", file=sys.stderr)
        python, case = pythons.get(engine.environment or ""), bundles[engine.portable]
        try:
            if python is None:
                set_up(engine)
            table[engine.name] = run_cells(engine, case, python)
        except NotAvailableError as error:
            table[engine.name] = dict.fromkeys(case.files, f"not set up: {error}")
    return table


def _export(folder: Path, portable: bool) -> Case:
    """A bundle, and what must come out of it."""
    bundle = folder / ("portable" if portable else "ordinary")
    precisions = parse_precisions(PORTABLE_PRECISIONS if portable else PRECISIONS)
    manifest = export_bundle(
        Checkpoint(CHECKPOINT), bundle, precisions, source="stories260k", portable=portable, progress=False
    )
    golden = json.loads((CHECKPOINT / "golden.json").read_text())["cases"]
    prompts = [case["prompt_ids"] for case in golden]
    files = {name: entry["file"] for name, entry in manifest["precisions"].items()}
    expected = {name: [greedy(bundle, file, ids, NEW_TOKENS) for ids in prompts] for name, file in files.items()}
    expected["fp32"] = [
        replace(ours, token_ids=case["ids"][len(case["prompt_ids"]) :][:NEW_TOKENS])
        for ours, case in zip(expected["fp32"], golden, strict=True)
    ]
    return Case(bundle, files, prompts, expected)


def as_markdown(table: Table) -> str:
    """Rows of engines, columns of precisions."""
    columns = list(dict.fromkeys(precision for row in table.values() for precision in row))
    lines = [f"| engine | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(row.get(column, '-') for column in columns)} |" for name, row in table.items()]
    return "\n".join(lines)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compat.run",
        description="Run the same bundle in every engine, and show where the tokens are the same.",
        epilog="example:\n  python -m tests.compat.run --engine genai",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--engine", action="append", metavar="TEXT", help="only rows whose name has it")
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENVIRONMENT=FILE", help="a Python that has an engine already"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
