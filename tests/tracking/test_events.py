"""The tail of events.jsonl: nothing lost, nothing twice. No MLflow here."""

import json

from hmoe.tracking.events import Bookmark, Event, new_events
from tests.tracking.fake import event, write_events


def take(folder, mark, batch=1000):
    """All new events as (key, step)."""
    return [(e.key, e.step) for events in new_events(folder, mark, batch) for e in events]


def test_events_keep_their_own_time_in_milliseconds(tmp_path):
    write_events(tmp_path, [{"step": 3, "time": 12.3456, "metrics": {"a": 1}}])
    assert list(new_events(tmp_path, Bookmark("r"), 10)) == [[Event("a", 1.0, 12346, 3)]]


def test_a_folder_without_events_has_none(tmp_path):
    assert take(tmp_path, Bookmark("r")) == []


def test_an_incomplete_last_line_waits_for_its_end(tmp_path):
    mark = Bookmark("r")
    write_events(tmp_path, [event(1, a=1)])
    write_events(tmp_path, [event(2, a=2)], end="")
    assert take(tmp_path, mark) == [("a", 1)]
    assert take(tmp_path, mark) == []
    write_events(tmp_path, [], end="\n")
    assert take(tmp_path, mark) == [("a", 2)]
    assert mark.bad_lines == 0


def test_a_line_cut_off_by_a_kill_is_skipped_and_counted(tmp_path):
    mark = Bookmark("r")
    write_events(tmp_path, [event(1, a=1)])
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"step": 2, "ti' + json.dumps(event(2, a=2)) + "\n")
    write_events(tmp_path, [event(3, a=3)])
    assert take(tmp_path, mark) == [("a", 1), ("a", 3)]
    assert mark.bad_lines == 1


def test_steps_repeated_after_a_resumption_are_taken_once(tmp_path):
    write_events(tmp_path, [event(s, a=s) for s in (10, 20, 30)])
    write_events(tmp_path, [event(s, time=9e8, a=-s, b=s) for s in (20, 30, 40)])
    mark = Bookmark("r")
    expected = [("a", 10), ("a", 20), ("a", 30), ("b", 20), ("b", 30), ("a", 40), ("b", 40)]
    assert take(tmp_path, mark) == expected


def test_batches_are_whole_lines_and_the_mark_stands_behind_each(tmp_path):
    write_events(tmp_path, [event(s, a=1, b=2) for s in range(5)])
    mark, steps, offsets = Bookmark("r"), [], []
    for events in new_events(tmp_path, mark, 4):
        steps.append([e.step for e in events])
        offsets.append(mark.offset)
    assert steps == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4]]
    size = (tmp_path / "events.jsonl").stat().st_size
    assert offsets == [size * 2 // 5, size * 4 // 5, size]


def test_the_mark_handed_out_with_a_batch_knows_no_later_step(tmp_path):
    write_events(tmp_path, [event(s, a=1) for s in (1, 2)])
    mark = Bookmark("r")
    next(new_events(tmp_path, mark, 1))
    mark.save(tmp_path)
    assert take(tmp_path, Bookmark.load(tmp_path, "r")) == [("a", 2)]


def test_values_that_are_not_finite_are_noted_and_not_sent(tmp_path):
    write_events(tmp_path, [event(1, a=1.0), event(2, a=float("inf"), b=float("nan"))])
    mark = Bookmark("r")
    assert take(tmp_path, mark) == [("a", 1)]
    assert mark.nonfinite == {"a": "inf at step 2", "b": "nan at step 2"}


def test_a_damaged_bookmark_or_one_of_another_run_starts_over(tmp_path):
    write_events(tmp_path, [event(1, a=1)])
    mark = Bookmark("r")
    take(tmp_path, mark)
    mark.save(tmp_path)
    assert take(tmp_path, Bookmark.load(tmp_path, "r")) == []
    assert take(tmp_path, Bookmark.load(tmp_path, "other")) == [("a", 1)]
    (tmp_path / "mlflow_upload.json").write_text("{")
    assert take(tmp_path, Bookmark.load(tmp_path, "r")) == [("a", 1)]
