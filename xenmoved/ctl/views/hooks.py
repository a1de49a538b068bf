"""What the hooks of a host look like as text."""

from __future__ import annotations

from xenmoved.ctl.text import Block, Span, Style, duration, indent, line, numbered, table
from xenmoved.hooks.report import HookRows


def hooks(answer: HookRows) -> list[Block]:
    """Return what is run at each event, in this order, and what is not, with what to do."""
    lines: list[Block] = []
    if answer.hooks:
        rows = [(one.event.value, one.name, one.path) for one in answer.hooks]
        lines += [table(("EVENT", "HOOK", "FILE"), rows)]
        lines += [line(), line(f"each may take {duration(answer.limit)}")]
    else:
        head = "no hooks that are run" if answer.skipped or answer.problems else "no hooks"
        lines += [line(f"{head} in {answer.folder}")]
        lines += [line("each goes into the folder of its event there, such as before-departure.d")]
    for unsafe, head, style in (
        (True, "NOT RUN, and unsafe:", Style.BAD),
        (False, "not run:", Style.BOLD),
    ):
        some = [one for one in answer.skipped if one.unsafe is unsafe]
        if some:
            told = ((f"{one.event}.d/{one.name}: {one.why}", one.hint) for one in some)
            lines += [line(), line(Span(head, style)), *indent([numbered(told)])]
    if answer.problems:
        told = ((one.text, one.hint) for one in answer.problems)
        lines += [line(), *indent([numbered(told)])]
    return lines
