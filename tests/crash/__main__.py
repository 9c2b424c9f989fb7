"""``python -m tests.crash --rounds 200 --seed 7``: kill it so often; print what became of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from .campaign import Campaign


def main() -> int:
    """Run a campaign; 0 if every promise was kept, 1 if one was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="how many kills")
    parser.add_argument("--seed", type=int, default=None, help="the same seed, the same moments")
    parser.add_argument(
        "--processes", type=int, default=1, help="servers on one file, one of which is killed"
    )
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    print(f"{given.rounds} kills of one of {given.processes} servers, seed {seed}\n")
    print(
        f"{'round':>5} {'killed after':>14} {'2xx':>7} {'events':>7} {'waiting':>8} {'leased':>7}"
    )
    with tempfile.TemporaryDirectory(prefix="whatsable-crash-") as folder:
        campaign = Campaign(Path(folder), seed=seed, processes=given.processes)
        for each in campaign.rounds(given.rounds):
            when = f"{each.after:.3f} s" + (" *" if each.starting else "  ")
            print(
                f"{each.number:5} {when:>14} {each.answered:7} {each.stored:7} "
                f"{each.waiting:8} {each.running:7}",
                flush=True,
            )
        verdict = campaign.reckon()
        other = dict(campaign.ledger.others())
        accepted = campaign.ledger.accepted()
    print("  * from the start of the process; the others from its first answer\n")
    print(f"messages answered 2xx   {len(accepted)}")
    print(f"other answers           {other or 'none'}")
    print(f"events in the inbox     {verdict.events}")
    print(f"jobs, all completed     {verdict.jobs}")
    print(f"effects                 {verdict.effects}, of which again {verdict.again}")
    print(f"attempts lost           {verdict.lost}")
    wrong = [*verdict.wrong, *(f"{n} answers {status}" for status, n in other.items())]
    for complaint in wrong:
        print(f"BROKEN: {complaint}")
    print("\n" + ("A promise is broken." if wrong else "Nothing lost, nothing twice."))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
