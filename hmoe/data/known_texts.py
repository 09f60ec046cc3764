"""Published sets of texts: files, digests, licences, addresses."""

from hmoe.data.known import KnownFile, KnownSet

_RAW = "https://raw.githubusercontent.com"
_WIKITEXT2 = f"{_RAW}/pytorch/examples/main/word_language_model/data/wikitext-2"
_CLINC150 = f"{_RAW}/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data"

TEXTS: tuple[KnownSet, ...] = (
    KnownSet(
        name="tiny_shakespeare",
        title="a megabyte of Shakespeare's plays",
        licence="public domain; published with char-rnn under the MIT licence",
        source="Andrej Karpathy, char-rnn (2015)",
        files=(
            KnownFile(
                name="input.txt",
                sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                size=1_115_394,
                url=f"{_RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            ),
        ),
    ),
    KnownSet(
        name="wikitext2",
        title="720 articles of the English Wikipedia, split into words",
        licence="CC BY-SA 3.0: name Wikipedia's authors, share alike",
        source="Merity et al. (2016), Pointer sentinel mixture models",
        files=(
            KnownFile(
                name="train.txt",
                sha256="9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                size=10_797_148,
                url=f"{_WIKITEXT2}/train.txt",
            ),
            KnownFile(
                name="valid.txt",
                sha256="f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                size=1_121_681,
                url=f"{_WIKITEXT2}/valid.txt",
            ),
            KnownFile(
                name="test.txt",
                sha256="d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                size=1_256_449,
                url=f"{_WIKITEXT2}/test.txt",
            ),
        ),
    ),
    KnownSet(
        name="gutenberg15",
        title="fifteen books of nine authors",
        licence="public domain",
        source="Natural Language Toolkit, selection from Project Gutenberg (November 2008)",
        files=(
            KnownFile(
                name="gutenberg.zip",
                sha256="5c638910fa1ac7a0294623950c5e932b421f2057eeedfbb7e8a200e6c77f0168",
                size=3_789_737,
                url=f"{_RAW}/nltk/nltk/583117dd80c39f604910ead218cab30da18a8d9a/"
                "nltk_data/corpora/gutenberg.zip",
            ),
        ),
    ),
    KnownSet(
        name="udhr",
        title="the Universal Declaration of Human Rights in 532 translations",
        licence="text: public domain; families of languages: Glottolog, CC BY 4.0",
        source="Eric Muller, UDHR in XML; Glottolog 5",
        files=(
            KnownFile(
                name="udhr_xml.tar",
                sha256="4cdcea72b1c985b3c1d997f8b1031b07350fe655c05a9ee182d8444c90366e03",
                size=10_608_640,
            ),
            KnownFile(
                name="languages.tsv",
                sha256="717677a40bd5dec4bf97b0f95adff22587661c0797f461cebb0d891c03b0c675",
                size=106_814,
            ),
        ),
        advice="It was put together for hmoe, and no address hands it out: the tar holds data/udhr "
        "of github.com/eric-muller/udhr, the table its index beside Glottolog's families.",
    ),
    KnownSet(
        name="clinc150",
        title="sentences of 150 intents in 10 domains",
        licence="CC BY 3.0: name Larson et al.",
        source="Larson et al. (2019), An evaluation dataset for intent classification",
        files=(
            KnownFile(
                name="data_full.json",
                sha256="36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
                size=2_495_390,
                url=f"{_CLINC150}/data_full.json",
            ),
            KnownFile(
                name="domains.json",
                sha256="b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
                size=3_818,
                url=f"{_CLINC150}/domains.json",
            ),
        ),
    ),
)
