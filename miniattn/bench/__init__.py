"""Measure miniattn and its peers on this machine: ``python -m miniattn bench``."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miniattn import runtime
from miniattn._command import WrongCall, output_folder, positive, program, whole
from miniattn.bench import _cases, _measure, _results, _table

LIBRARIES = ["miniattn", "torch", "torch_compile", "jax", "onnxruntime", "numpy"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument("--quick", action="store_true", help="a few small cases, one round")
    parser.add_argument(
        "--only", metavar="TEXT", nargs="+", help="cases whose name contains TEXT; 'lengths'"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=LIBRARIES[1:], default=LIBRARIES[1:], help="default: all"
    )
    parser.add_argument(
        "--python",
        metavar="NAME=PATH",
        type=program,
        action="append",
        default=[],
        help="run a peer with the Python of another environment",
    )
    parser.add_argument("--threads", type=whole(1), help="default: all that Numba has")
    parser.add_argument(
        "--rounds", type=whole(1), help="turns that each library takes (5; quick: 1)"
    )
    parser.add_argument("--seconds", type=positive, help="length of a turn (0.2; quick: 0.05)")
    parser.add_argument("--out", type=Path, default=Path("miniattn-bench"), metavar="FOLDER")
    parser.add_argument(
        "--draw", action="store_true", help="measure nothing: table and picture of FOLDER's JSON"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the table; write benchmark.json, benchmark.txt and benchmark.png."""
    args.threads = runtime.get_num_threads() if args.threads is None else args.threads
    _check(args)
    output_folder(args.out)
    path = args.out / "benchmark.json"
    results = _found(path)
    if not args.draw:
        # Written after every case: a run that is interrupted has measured what it has.
        for new in _measured(args):
            results = _merged(results, new)
            path.write_text(json.dumps(results, indent=1) + "\n")
    if results is None:
        raise WrongCall(f"--draw: expected {path} of an earlier run, got none")
    text = _table.text(results)
    (args.out / "benchmark.txt").write_text(text)
    print(text, end="")
    from miniattn.bench import _picture  # here: measuring needs no matplotlib

    _picture.draw(results, args.out / "benchmark.png")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise unless there are so many threads, and every text of ``--only`` is of some case."""
    try:
        runtime.thread_count("--threads", args.threads)
    except ValueError as error:
        raise WrongCall(str(error)) from None
    names = [_cases.name(case) for group in _cases.groups(args.quick) for case in group.cases]
    for text in args.only or ():
        if text != "lengths" and not any(text in name for name in names):
            kinds = ", ".join(dict.fromkeys(name.split()[0] for name in names))
            raise WrongCall(
                f"--only: expected 'lengths' or a part of the name of a case, got {text!r}; "
                f"there are cases of {kinds}, one of them {names[-1]!r}"
            )


def _found(path: Path) -> dict[str, Any] | None:
    """Return the results of an earlier run, if there are any."""
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _table.text(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WrongCall(
            f"--out: expected results of an earlier run in {path}, got others"
        ) from None
    return found


def _measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the results so far, time and again."""
    rounds = args.rounds or (1 if args.quick else 5)
    seconds = args.seconds or (0.05 if args.quick else 0.2)
    pythons = dict(args.python)
    names = ["miniattn", *args.peers]
    libraries, missing = _measure.start(names, pythons, args.threads)
    machine = _measure.Machine(args.threads)
    results: dict[str, Any] = {
        "machine": _machine(args.threads),
        "libraries": {library.name: library.version for library in libraries},
        "missing": missing,
        "limits": {},
        "records": [],
        "lengths": [],
    }
    limits = results["limits"]
    try:
        for group, case in _chosen(args):
            # Beside others no round is undisturbed, and none is taken again.
            watched = None if case.get("busy") else machine
            with _measure.busy(case.get("busy", 0)):
                found = _measure.compare(
                    libraries, case, rounds=rounds, seconds=seconds, machine=watched
                )
            limits["multiply_add"] = machine.peak
            entry = _results.record(group, case, found, limits)
            if case["op"] == "copy":
                limits[_results.limit_name(case)] = _results.fastest(case, entry)
            results["records"].append(entry)
            _say(entry)
            yield results
    finally:
        machine.close()
        for library in libraries:
            library.close()
    if not args.only or "lengths" in args.only:
        for entry in _lengths(args, results["libraries"], pythons, seconds):
            results["lengths"].append(entry)
            _say(entry)
            yield results


def _machine(threads: int) -> dict[str, str]:
    """Return what the run depends on: not where this user's files are."""
    facts = runtime.config() | {"threads": str(threads)}
    del facts["compiled kernels"]
    return facts


def _chosen(args: argparse.Namespace) -> Iterator[tuple[_cases.Group, _cases.Case]]:
    """Yield the cases to measure; copies always, because others are compared with them."""
    for group in _cases.groups(args.quick):
        for case in group.cases:
            name = _cases.name(case)
            if not args.only or case["op"] == "copy" or any(text in name for text in args.only):
                yield group, case


def _lengths(
    args: argparse.Namespace, names: Iterable[str], pythons: Mapping[str, str], seconds: float
) -> Iterator[_results.Record]:
    """Yield time and memory of attention for growing T, each in a process of its own."""
    for case in _cases.lengths(args.quick):
        found = {}
        for name in names:
            if case["T"] <= _cases.LONGEST.get(name, math.inf):
                python = pythons.get(name, sys.executable)
                found[name] = _measure.alone(name, python, args.threads, case, seconds)
        yield _results.length_record(case, found)


def _say(entry: _results.Record) -> None:
    """Show that the run goes on: one line a case, not where it could be taken for the table."""
    parts = [entry["name"]]
    for name, found in entry["libraries"].items():
        taken = _table.duration(found["seconds"]) if "seconds" in found else "-"
        parts.append(f"{name} {found.get('error', taken)}")
    print("  ".join(parts), file=sys.stderr, flush=True)


def _merged(kept: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return new results, with the old ones of what was not measured again."""
    if kept is None:
        return new
    merged = {**new}
    merged["libraries"] = {**kept["libraries"], **new["libraries"]}
    merged["limits"] = {**kept["limits"], **new["limits"]}
    order = [_cases.name(case) for g in _cases.groups(False) for case in g.cases]
    order += [_cases.name(case) for case in _cases.lengths(False)]
    for part in ("records", "lengths"):
        entries = {entry["name"]: entry for entry in [*kept[part], *new[part]]}
        merged[part] = sorted(entries.values(), key=lambda entry: order.index(entry["name"]))
    return merged
