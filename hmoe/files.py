"""Files that are at all times absent, old, or new and whole, whatever kills the writer."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write aside, sync, rename. The folder must be there."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
