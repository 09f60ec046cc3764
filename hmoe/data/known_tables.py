"""Published sets of tables: files, digests, licences, addresses."""

from hmoe.data.known import KnownSet

TABLES: tuple[KnownSet, ...] = ()
