"""`python -m tests.faults.storm --minutes 30 --journal sqlite --seed 7`: the long form of the storm."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.storm.history import histories
from tests.faults.storm.storm import Plan, Report, run_storm
from tests.faults.storm.worker import MUTANTS
from tests.support.azurite import REMEDY, is_installed


def main() -> int:
    options = _options()
    journals = options.journal.split(",")
    lacks_azurite = "table" in journals and not is_installed()
    if lacks_azurite:
        print(f"The storm with the table journal is left out, because it needs Azurite: {REMEDY}.", file=sys.stderr)  # noqa: T201
        journals.remove("table")
    reports = [_run(options, journal) for journal in journals]
    if lacks_azurite:
        print("journal table: left out, Azurite is missing")  # noqa: T201
    if not reports:
        return 2
    return 0 if all(report.is_clean for report in reports) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="the duration of the faults and the load")
    parser.add_argument("--journal", default="sqlite,table", help="sqlite, table, or both with a comma")
    parser.add_argument("--seed", type=int, default=None, help="repeat the storm of this seed")
    parser.add_argument("--mutant", choices=MUTANTS, default=None, help="run a mutated worker, which must be found out")
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second, at most")
    parser.add_argument("--window", type=int, default=7200, help="the reply queue's duplicate detection, in seconds")
    parser.add_argument("--disk", type=int, default=64, help="the size of the SQLite journal's disk, in megabytes")
    parser.add_argument("--keep", action="store_true", help="keep the files of a clean storm, too")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
    return options


def _run(options: argparse.Namespace, journal: str) -> Report:
    folder = Path(tempfile.mkdtemp(prefix=f"storm-{journal}-{options.seed}-"))
    plan = Plan(
        options.seed,
        journal,
        seconds=options.minutes * 60,
        workers=options.workers,
        rate=options.rate,
        window_seconds=options.window,
        disk_megabytes=options.disk,
        drain_seconds=300,
        mutant=options.mutant,
    )
    print(f"seed {plan.seed}, journal {journal}: {options.minutes:g} min of faults; files in {folder}", file=sys.stderr)  # noqa: T201
    report = asyncio.run(run_storm(plan, folder))
    print("the ends of the requests, by kind:", file=sys.stderr)  # noqa: T201
    print("\n".join(report.details), file=sys.stderr)  # noqa: T201
    if report.is_clean and not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(histories(report.findings, folder), file=sys.stderr)  # noqa: T201
        print(f"the files of the storm are in {folder}", file=sys.stderr)  # noqa: T201
    print(report.line, flush=True)  # noqa: T201
    return report


if __name__ == "__main__":
    sys.exit(main())
