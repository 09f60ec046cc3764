"""How far a command is: one bar on standard error, for all that are no run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(
    what: str = "", *, in_bytes: bool = False, time_left: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """Give what is to be called with what is being done, how much of it, and of how much.

    Args:
        what: shown until something else is; also where the call says nothing.
        in_bytes: the amounts are bytes.
        time_left: show also the time that went by and the time left, and leave the bar at the end.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
    columns.append(DownloadColumn() if in_bytes else MofNCompleteColumn())
    if time_left:
        columns += [TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
    console = Console(stderr=True)
    # Where nothing moves, a bar that goes away would leave an empty line.
    hidden = not time_left and not console.is_interactive
    with Progress(*columns, console=console, transient=not time_left, disable=hidden) as shown:
        task = shown.add_task(what, total=None if time_left else 100.0)

        def show(now: str, done: int, total: int) -> None:
            shown.update(task, description=now or what, completed=done, total=total)

        yield show
