"""Published sets of texts: files, digests, licences, addresses."""

from hmoe.data.known import KnownFile, KnownSet

_RAW = "https://raw.githubusercontent.com"
_WIKITEXT2 = f"{_RAW}/pytorch/examples/main/word_language_model/data/wikitext-2"

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
)
