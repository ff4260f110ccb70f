"""Renders the explanation of `flow-worker check-access` for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from rich.table import Table
from rich.text import Text

from flow_worker.cli.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

    from flow_worker.cli.access_explanation import AccessExplanation, StepOutcome

_MARKS: dict[StepOutcome, tuple[str, str]] = {
    "allowed": ("\N{CHECK MARK}", "green"),
    "refused": ("\N{BALLOT X}", "red"),
    "not known": ("?", "yellow"),
}


def print_explanation(console: Console, explanation: AccessExplanation) -> None:
    """Print the steps as a numbered list, and below it the outcome of a request."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for number, step in enumerate(explanation.steps, 1):
        mark = Text(*_MARKS[step.outcome])
        grid.add_row(f"{number}.", mark, Text.assemble((step.question, "bold"), "\n", plain(step.because)))
    console.print(grid)
    console.print(Text.assemble("\n", _summary(explanation)))


def _summary(explanation: AccessExplanation) -> Text:
    flow = plain(f"'{explanation.flow}'")
    match explanation.outcome:
        case "allowed":
            return Text.assemble(("Allowed: ", "green"), "the worker would call ", flow, ".")
        case "refused":
            step = explanation.deciding_step
            hidden = "" if step.sender_code == step.code else ", which does not tell the reason"
            code = f": '{step.code}'. The sender would get '{step.sender_code}'{hidden}."
            return Text.assemble(("Refused: ", "red"), "the worker would not call ", flow, code)
        case "not known":
            return Text.assemble(("Not known: ", "yellow"), "the steps with a question mark decide about ", flow, ".")
        case _:
            assert_never(explanation.outcome)
