"""Published sets of images: files, digests, licences, addresses.

The digests of the archives of CIFAR are those of TensorFlow Datasets, the digests of the files in
them those of TorchVision for Ruby; the files were not here to be compared.
"""

from hmoe.data.known import Archive, KnownFile, KnownSet

_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist"
    "/949006594cc2f804a93b9155849734564c3545ec/data/fashion"
)
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_CIFAR_LICENCE = "none given; the authors ask to be cited"
_CIFAR_SOURCE = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
_BATCH = 10_000 * (1 + 3072)

FASHION_MNIST = KnownSet(
    name="fashion_mnist",
    title="Fashion-MNIST: 70,000 grey pictures of clothing in ten classes, 28 x 28",
    licence="MIT",
    source="Xiao, Rasul and Vollgraf (Zalando Research), 2017",
    files=tuple(
        KnownFile(name=name, sha256=sha256, size=size, url=f"{_FASHION}/{name}.gz")
        for name, size, sha256 in (
            (
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            (
                "train-labels-idx1-ubyte",
                60_008,
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            (
                "t10k-images-idx3-ubyte",
                7_840_016,
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            (
                "t10k-labels-idx1-ubyte",
                10_008,
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        )
    ),
)

CIFAR10 = KnownSet(
    name="cifar10",
    title="CIFAR-10, binary edition: 60,000 coloured pictures in ten classes, 32 x 32",
    licence=_CIFAR_LICENCE,
    source=_CIFAR_SOURCE,
    archive=Archive(
        url=f"{_CIFAR}/cifar-10-binary.tar.gz",
        most=170_052_171,
        most_unpacked=6 * _BATCH + 2**20,
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    files=tuple(
        KnownFile(name=name, sha256=sha256, size=_BATCH, member=f"cifar-10-batches-bin/{name}")
        for name, sha256 in (
            (
                "data_batch_1.bin",
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            ),
            (
                "data_batch_2.bin",
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            ),
            (
                "data_batch_3.bin",
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            ),
            (
                "data_batch_4.bin",
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            ),
            (
                "data_batch_5.bin",
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            ),
            (
                "test_batch.bin",
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            ),
        )
    ),
)

CIFAR100 = KnownSet(
    name="cifar100",
    title="CIFAR-100, binary edition: 60,000 coloured pictures in 100 classes, 32 x 32",
    licence=_CIFAR_LICENCE,
    source=_CIFAR_SOURCE,
    archive=Archive(
        url=f"{_CIFAR}/cifar-100-binary.tar.gz",
        most=168_513_733,
        most_unpacked=60_000 * (2 + 3072) + 2**20,
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
    files=(
        KnownFile(
            name="train.bin",
            sha256="f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            size=50_000 * (2 + 3072),
            member="cifar-100-binary/train.bin",
        ),
        KnownFile(
            name="test.bin",
            sha256="d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
            size=10_000 * (2 + 3072),
            member="cifar-100-binary/test.bin",
        ),
    ),
)

IMAGES: tuple[KnownSet, ...] = (FASHION_MNIST, CIFAR10, CIFAR100)
