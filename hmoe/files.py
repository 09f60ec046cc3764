"""Files that are at all times absent, old, or new and whole, whatever kills the writer."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write aside, sync, rename. The folder must be there."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
