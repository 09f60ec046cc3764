"""Made tables, tiny and of the form of the published ones."""

from collections.abc import Callable, Mapping

NUM_ROWS = 80
BLOCKS = (52, 12, 16)
"""Rows for train, val and test, in place of those of the published tables."""


def _census_income_kdd() -> dict[str, bytes]:
    def person(n: int) -> str:
        married = "Never married" if n % 3 else "Divorced"
        cells = [n, "Private", n % 4, n % 5, f"{n % 7}th grade", 10 * n, "Not in universe", married]
        cells += ["?" if n % 9 == 0 else f"industry {n % 3}"] + [f"word {n % 2}"] * 3
        cells += [["Male", "Female"][n // 2 % 2], "No", "Not in universe", "Full-time", 0, 0, n % 2]
        cells += ["Single"] * 5 + [1000.5 + n] + ["?"] * 5 + [n % 6] + ["Both parents present"]
        cells += ["United-States"] * 3 + ["Native", 0, "Not in universe", 2, n % 53, 94 + n % 2]
        return ", ".join(map(str, [*cells, "50000+." if n % 5 == 0 else "- 50000."]))

    return {"census-income.test": _lines(map(person, range(NUM_ROWS)))}


def _adult() -> dict[str, bytes]:
    def person(n: int, end: str) -> str:
        cells = [20 + n, "?" if n % 8 == 0 else "Private", 100_000 + n, f"{n % 4}th", n % 4]
        cells += ["Divorced", "Sales", "Husband", "White", ["Male", "Female"][n % 2], 0, 0, 40]
        return ", ".join(map(str, [*cells, "Peru", (">50K" if n % 3 == 0 else "<=50K") + end]))

    persons = [person(n, "" if n < 60 else ".") for n in range(NUM_ROWS)]
    # The published files end with an empty line, that of the test rows begins with a remark.
    test = ["|1x3 Cross validator", *persons[60:], ""]
    return {"adult.data": _lines([*persons[:60], ""]), "adult.test": _lines(test)}


def _california_housing() -> dict[str, bytes]:
    names = "median_income housing_median_age total_rooms total_bedrooms population households"
    header = "\t".join([*names.split(), "latitude", "longitude", "target"])
    rows = ["\t".join(str(n * k % 17 + 0.5) for k in range(1, 10)) for n in range(NUM_ROWS)]
    return {"houses.tsv": _lines([header, *rows])}


def _covtype20k() -> dict[str, bytes]:
    def patch(n: int) -> str:
        area, soil = [int(n % 4 == k) for k in range(4)], [int(n % 40 == k) for k in range(40)]
        cells = [2000 + n, *(n * k % 13 for k in range(1, 10)), *area, *soil, n % 7 + 1]
        return ",".join(map(str, cells))

    return {"covtype.20k.data": _lines(map(patch, range(NUM_ROWS)))}


def _letter() -> dict[str, bytes]:
    # Every letter among the first, as training asks.
    letters = [chr(65 + n % 26) for n in range(NUM_ROWS)]
    rows = [f"{c}," + ",".join(str((ord(c) * k) % 16) for k in range(1, 17)) for c in letters]
    return {"letter-recognition.data": _lines(rows)}


def _uci_regression() -> dict[str, bytes]:
    rows = ["  ".join(f"{(n * k % 11) / 7:.7e}" for k in range(1, 10)) for n in range(NUM_ROWS)]
    return {"kin8nm.txt": _lines(f"  {row}" for row in rows)}


def _movielens() -> dict[str, bytes]:
    """Twelve users of ten ratings each, of fourteen films; film 14 has no genre."""
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(1, 13):
        films = [(user + 3 * k) % 14 + 1 for k in range(10)]
        ratings += [
            f"{user},{f},{(user + f) % 9 / 2 + 0.5},{1000 + k}" for k, f in enumerate(films)
        ]
    genres = ["Drama", "Comedy|Romance", "Action|Sci-Fi|Thriller"]
    films = [f'{f},"Film {f}, The ({1990 + f})",{genres[f % 3]}' for f in range(1, 14)]
    films = ["movieId,title,genres", *films, "14,Film é (2000),(no genres listed)"]
    return {"ratings.csv": _lines(ratings), "movies.csv": _lines(films)}


def _lines(lines: object) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()  # type: ignore[attr-defined]


def vowels() -> Mapping[str, bytes]:
    """76 speakers who say four vowels once; formants go by the vowel, pitch by the speaker."""
    lines = ["type,sex,speaker,vowel,repetition,f0,f1,f2,f3"]
    for speaker in range(1, 77):
        for place, vowel in enumerate(("i", "I", "A", "V")):
            f0, f1, f2 = 100 + speaker, 300 + 100 * place + speaker % 7, 2000 - 200 * place
            lines.append(f"m,m,{speaker},{vowel},1,{f0},{f1},{f2},{f2 + 500}")
    return {"pb52.csv": "\n".join([*lines, ""]).encode()}


TABLES: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "census_income_kdd": _census_income_kdd,
    "adult": _adult,
    "california_housing": _california_housing,
    "covtype20k": _covtype20k,
    "letter": _letter,
    "uci_regression": _uci_regression,
    "movielens_latest_small": _movielens,
    "vowel_peterson_barney": vowels,
}
