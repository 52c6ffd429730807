"""The command line: ``python -m miniattn COMMAND``, or ``miniattn COMMAND``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import miniattn
from miniattn._command import WrongCall


class Command(NamedTuple):
    """A command in a module of its own: ``add_arguments(parser)`` and ``run(args) -> int``."""

    module: str
    extra: str  # the optional dependencies that it needs, as pyproject.toml names them, if any
    help: str


COMMANDS = {
    "bench": Command("miniattn.bench", "bench", "time miniattn and its peers on this machine"),
    "demo": Command(
        "miniattn.demo", "examples", "train on handwritten digits, draw what the model attends to"
    ),
    "explore": Command(
        "miniattn.explore", "text", "draw what a language model attends to in a text"
    ),
    "lab": Command("miniattn.lab.cli", "", "exercises in manual backprop, and their checker"),
    "plot": Command("miniattn.plot.cli", "", "draw attention weights from a file"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = _parser(argv).parse_args(argv)
        return int(args.run(args))
    except WrongCall as error:
        print(f"miniattn {argv[0]}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        command = COMMANDS.get(argv[0]) if argv else None
        if command is None or not command.extra or (error.name or "").startswith("miniattn"):
            raise
        print(
            f"miniattn {argv[0]}: {error.name} is not installed; "
            f'try: pip install "miniattn[{command.extra}]"',
            file=sys.stderr,
        )
        return 1


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="miniattn", description=miniattn.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=miniattn.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, description=command.help)
        if name in argv[:1]:  # the others stay unimported: `--help` needs no extras
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    _add(commands, "info", "show versions, processor and thread pools", _info)
    warmup = _add(commands, "warmup", "compile every kernel once, and keep them on disk", _warmup)
    warmup.add_argument(
        "--dtype", nargs="+", choices=["float32", "float64"], default=["float32"], dest="dtypes"
    )
    return parser


def _add(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    subparser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    subparser.set_defaults(run=run)
    return subparser


def _info(args: argparse.Namespace) -> int:
    miniattn.show_config()
    return 0


def _warmup(args: argparse.Namespace) -> int:
    miniattn.warmup(dtypes=args.dtypes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
