"""Commands of data and text: fetch published files, and let a trained model write.

Heavy libraries are imported inside the commands, as in `hmoe.cli`.
"""

import codecs
import sys
from collections.abc import Sequence
from pathlib import Path

from hmoe.cli_progress import progress
from hmoe.cli_words import check_folders, names_in, run_named
from hmoe.config import plain_values
from hmoe.errors import ConfigError, nearest


def fetch(words: Sequence[str]) -> int:
    """Download a published data set, compared with its digests, into root/NAME."""
    from hmoe.data import KNOWN_SETS
    from hmoe.data.fetching import fetch as fetch_set

    names = [word for word in words if "=" not in word]
    options = plain_values([word for word in words if "=" in word], {"root": "data"})
    check_folders(options, "root")
    there_are = f"There are {', '.join(sorted(KNOWN_SETS))}."
    if len(names) != 1:
        raise ConfigError(f"NAME: {len(names)} names given, 1 expected. {there_are}")
    (name,) = names
    if name not in KNOWN_SETS:
        raise ConfigError(f"{name}: no such set.{nearest(name, KNOWN_SETS)} {there_are}")
    known = KNOWN_SETS[name]
    folder = Path(options["root"]) / name
    print(f"{name}: {known.title}")
    print(f"source: {known.source}")
    print(f"licence: {known.licence}")
    print(f"folder: {folder}", flush=True)  # before anything is asked for
    with progress(in_bytes=True) as show:
        paths = fetch_set(known, folder, show=show)
    for path in paths:
        print(path)
    return 0


def generate(words: Sequence[str], *, prompt: str) -> int:
    """Let a run that was trained on text go on from a prompt."""
    (name,), options = names_in(
        words, ("RUN",), {"tokens": 400, "temperature": 0.8, "top_k": None, "seed": 0}
    )
    for key, kinds in (("tokens", int), ("seed", int), ("temperature", (int, float))):
        if isinstance(options[key], bool) or not isinstance(options[key], kinds):
            raise ConfigError(f"{key} = {options[key]}: expected a number.")
    if not isinstance(options["top_k"], int | None) or isinstance(options["top_k"], bool):
        raise ConfigError(f"top_k = {options['top_k']}: expected a whole number, or null.")
    if not prompt:
        raise ConfigError("--prompt: must hold some text to go on from.")
    folder, _ = run_named(Path(options.pop("runs")), name)
    # Loads torch: after all that can be told without.
    from hmoe.inspection import generate as sampled
    from hmoe.inspection import load_run

    given = prompt.encode(errors="surrogateescape")  # as the shell has it, UTF-8 or not
    pieces = sampled(load_run(folder), given, **options)
    # A character may come in several tokens; what is none is shown as such.
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sys.stdout.write(decoder.decode(given))
    for piece in pieces:
        sys.stdout.write(decoder.decode(piece))
        sys.stdout.flush()
    print(decoder.decode(b"", final=True))
    return 0
