"""What each call that trained something really used: lines added beside the registration.

A command line may ask for more trials or seeds than were registered, and the next one may not
repeat it. What was done is told from here, not from the command that happens to ask.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

INVOCATIONS = "invocations.jsonl"


def note(folder: Path, **used: Any) -> None:
    """Add a line to the file of a study: the time (UTC), and what is given.

    Args:
        folder: that of the study.
        used: `command`, `question`, and `trials` or `seeds` as they were asked for; or `looked`,
            the seeds at which a confirmation was complete, so that its verdicts could be read.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **used}
    with (folder / INVOCATIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def invocations(folder: Path) -> list[dict[str, Any]]:
    """The lines of a study, oldest first; none of one that is older than this file."""
    path = folder / INVOCATIONS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def used(folder: Path, key: str) -> list[Any]:
    """The values of a key, in the order in which they were first used, once each."""
    return list(dict.fromkeys(line[key] for line in invocations(folder) if key in line))


def looks(folder: Path) -> list[int]:
    """Numbers of seeds at which a complete confirmation was evaluated, ascending."""
    return sorted(used(folder, "looked"))
