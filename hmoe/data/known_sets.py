"""All known sets, by the name that `hmoe fetch` and `data.root=` know them by."""

from hmoe.data.known import KnownSet
from hmoe.data.known_images import IMAGES
from hmoe.data.known_tables import TABLES
from hmoe.data.known_texts import TEXTS

KNOWN_SETS: dict[str, KnownSet] = {known.name: known for known in (*TEXTS, *TABLES, *IMAGES)}
