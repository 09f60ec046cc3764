"""Reading a run's events.jsonl from where the last upload stopped. Knows nothing of MLflow.

Nothing is sent twice and nothing is lost, by two facts. What is sent is a pure function of the
file: each line carries its own time, so a batch sent again after a crash is the same batch, and
the store keeps one copy of equal rows. And the bookmark moves only after a batch has arrived.
The bookmark may therefore be lost at any time; it saves work, it does not hold truth.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from hmoe.files import write_atomically

EVENTS = "events.jsonl"
_BOOKMARK = "mlflow_upload.json"


class Event(NamedTuple):
    """One value of one metric. `time_ms` is unix time in milliseconds."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass
class Bookmark:
    """How far the events of a run folder have been uploaded.

    Attributes:
        run_id: the MLflow run they went to; another run starts from the beginning.
        offset: bytes of events.jsonl read.
        last_step: per metric the last step taken. A resumed run starts again at its checkpoint and
            repeats the steps after it; those are skipped.
        nonfinite: per metric the first step whose value was not finite, and that value in words.
        bad_lines: lines that could not be read, such as one cut off by a kill.
    """

    run_id: str
    offset: int = 0
    last_step: dict[str, int] = field(default_factory=dict)
    nonfinite: dict[str, str] = field(default_factory=dict)
    bad_lines: int = 0

    @classmethod
    def load(cls, folder: Path, run_id: str) -> "Bookmark":
        try:
            mark = cls(**json.loads((folder / _BOOKMARK).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(run_id)
        return mark if mark.run_id == run_id else cls(run_id)

    def save(self, folder: Path) -> None:
        write_atomically(folder / _BOOKMARK, json.dumps(asdict(self)))


def new_events(folder: Path, mark: Bookmark, batch: int) -> Iterator[list[Event]]:
    """Yield the events after the bookmark in batches of at least one and about `batch` events.

    When a batch is handed out, `mark` stands behind it: save it once the batch has arrived. A last
    line without its newline is still being written and is left for the next call. MLflow would hold
    inf as 1.8e308 and NaN as 0, so values that are not finite are noted on `mark` and not sent.
    """
    path = folder / EVENTS
    if not path.exists():
        return
    if path.stat().st_size < mark.offset:
        mark.offset = 0
    events: list[Event] = []
    with path.open("rb") as file:
        file.seek(mark.offset)
        for line in file:
            if not line.endswith(b"\n"):
                break
            found = _parse(line)
            if events and len(events) + len(found or ()) > batch:
                yield events
                events = []
            mark.offset += len(line)
            mark.bad_lines += found is None
            events += [event for event in found or () if _take(event, mark)]
    # Also when empty: the lines read may have moved the bookmark.
    yield events


def _parse(line: bytes) -> list[Event] | None:
    """The events of one line, None when it is not one of ours."""
    try:
        record = json.loads(line)
        step, time_ms = int(record["step"]), round(1000 * float(record["time"]))
        return [Event(str(k), float(v), time_ms, step) for k, v in record["metrics"].items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _take(event: Event, mark: Bookmark) -> bool:
    """Note the event on the bookmark; True if it is to be sent."""
    if event.step <= mark.last_step.get(event.key, -1):
        return False
    mark.last_step[event.key] = event.step
    if math.isfinite(event.value):
        return True
    mark.nonfinite.setdefault(event.key, f"{event.value} at step {event.step}")
    return False
