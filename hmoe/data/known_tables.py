"""Published sets of tables: files, digests, licences, addresses."""

from hmoe.data.known import KnownFile, KnownSet

TABLES: tuple[KnownSet, ...] = (
    KnownSet(
        name="vowel_peterson_barney",
        title="Pitch and three formants of ten English vowels, twice by each of 76 speakers",
        licence="BSD-2-Clause (phonTools, Santiago Barreda 2015); measured in 1952",
        source="Peterson & Barney (1952), Control methods used in a study of the vowels",
        files=(
            KnownFile(
                name="pb52.csv",
                sha256="0e6b43dd28b00224f32960c931ab484e55c4a6ac1c1112c6849bf6fb613fdb9e",
                size=43_888,
            ),
        ),
        advice=(
            "It is the data frame pb52 of the R package phonTools (CRAN), written as CSV with its "
            "header, without quotes and row names."
        ),
    ),
)
