"""Published sets of images: files, digests, licences, addresses."""

from hmoe.data.known import KnownSet

IMAGES: tuple[KnownSet, ...] = ()
