"""Published sets of texts: files, digests, licences, addresses."""

from hmoe.data.known import KnownSet

TEXTS: tuple[KnownSet, ...] = ()
