"""Writes docs/cli.md from the command line's own parser; a test holds the two together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from aligndbg.cli.arguments import parser

HEAD = """# The command line

This page is made from the program by `python docs/make_cli.py`; `aligndbg COMMAND --help` says the same.

`aligndbg --version` prints the version. Exit codes: 0 aligned, 1 diverged, 2 usage error, bad file or missing
dependency, 3 inconclusive. Results go to stdout, progress and messages to stderr.
"""


def cli_page() -> str:
    """The page as Markdown: a section for each command, a table for each group of its options."""
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    parts = [HEAD]
    for name, inner in commands.choices.items():
        parts.append(f"\n## aligndbg {name}\n\n{_sentence(helps[name])}\n")
        for group in inner._action_groups:
            rows = [row for action in group._group_actions for row in _row(action)]
            if rows:
                title = "" if group.title in ("positional arguments", "options") else f"\n{_sentence(group.title)}\n"
                parts.append(title + "\n| | |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _row(action: argparse.Action) -> Iterator[str]:
    if isinstance(action, argparse._HelpAction):
        return
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    words = [f"{o} {value}" if action.nargs != 0 else o for o in action.option_strings]
    shown = ", ".join(f"`{word}`" for word in words or [str(action.metavar or action.dest)])
    text = " ".join((action.help or "").split())
    yield f"| {_cell(shown)} | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str | None) -> str:
    words = text or ""
    return words[:1].upper() + words[1:] + "."


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(cli_page(), encoding="utf-8")
