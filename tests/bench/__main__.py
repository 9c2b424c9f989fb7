"""``python -m tests.bench [section …]``: run the sections, print the table."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from .others import TOLERATED, watch
from .report import circumstances, document, table
from .rows import Options, Row
from .sections import SECTIONS


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code is 1 when a row misses, says nothing, or is in doubt."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=int, default=3, help="of every configuration (3)")
    parser.add_argument("--seconds", type=int, default=3, help="of one run (3)")
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures say nothing")
    parser.add_argument("--full", action="store_true", help="the largest sizes, in every round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    parser.add_argument("-v", "--verbose", action="store_true", help="each run as it ends")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.sections if name not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    options = Options(
        rounds=1 if given.quick else given.rounds,
        seconds=1 if given.quick else given.seconds,
        quick=given.quick,
        full=given.full,
        verbose=given.verbose,
    )
    rows: list[Row] = []
    for name in given.sections or SECTIONS:
        begin = time.monotonic()
        rows += measured(name, options)
        print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        if given.json:  # after each section, so that a long run that is cut off leaves something
            given.json.write_text(json.dumps(document(rows, options), indent=1) + "\n")
    print(table(rows))
    print(", ".join(f"{name} {value}" for name, value in circumstances(options).items()))
    return 0 if all(row.fine for row in rows) else 1


def measured(name: str, options: Options) -> list[Row]:
    """The rows of a section; one that broke is a row that says so, and the others go on."""
    try:
        section = import_module(f"tests.bench.sections.{name}")
        others = watch()
        rows: list[Row] = section.run(options)
        share = others()
    except Exception as error:  # one section's trouble must not cost the hour of the others
        last = str(error).strip().replace("\\n", " ")[-400:]
        return [Row(section=name, what=name, void=f"broken: {type(error).__name__}: {last}")]
    busy = share is not None and share > TOLERATED
    doubt = f"others used {share:.0%} of the machine" if busy else None
    return [replace(row, section=name, doubt=doubt) for row in rows]


if __name__ == "__main__":
    sys.exit(main())
