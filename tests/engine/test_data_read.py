"""From a file's arrays to the model's inputs: names, shapes, kinds, finiteness, labels, preprocess."""

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import EspalierError
from schemas.request import Preprocess
from worker.engine.data import InputSpec, Samples, read_samples

IMAGE = InputSpec("image", np.dtype(np.float32), (None, 3, 4, 5))
TABLE = InputSpec("x", np.dtype(np.float32), (None, 2))
IDS = InputSpec("ids", np.dtype(np.int32), (None, 6))
FLAG = InputSpec("flag", np.dtype(np.bool_), (None, 1))
RNG = np.random.default_rng(0)


def read(path: Path, *specs: InputSpec, preprocess: Preprocess | None = None, **more) -> Samples:
    settings = {"max_bytes": 1 << 20, "role": "calibration", "batch": None} | more
    return read_samples(path, specs, preprocess or Preprocess(), **settings)


def npz(tmp_path: Path, **arrays) -> Path:
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def refusal(path: Path, *specs: InputSpec, **more) -> EspalierError:
    with pytest.raises(EspalierError) as caught:
        read(path, *specs, **more)
    return caught.value


# ---- names


def test_one_input_takes_any_single_array(tmp_path):
    got = read(npz(tmp_path, whatever=np.ones((7, 2)), y=np.arange(7)), TABLE)
    assert got.count == 7
    assert got.inputs["x"].dtype == np.float32
    assert got.labels is not None
    np.testing.assert_array_equal(np.arange(7), got.labels)


def test_an_input_that_is_called_y_is_an_input(tmp_path):
    spec = InputSpec("y", np.dtype(np.float32), (None, 2))
    assert read(npz(tmp_path, y=np.ones((3, 2))), spec).labels is None


def test_several_inputs_are_matched_by_name(tmp_path):
    path = npz(tmp_path, ids=np.ones((3, 6), np.int64), x=np.zeros((3, 2)), flag=np.ones((3, 1), bool))
    got = read(path, TABLE, IDS, FLAG)
    assert list(got.inputs) == ["x", "ids", "flag"]
    assert got.inputs["ids"].dtype == np.int32


@pytest.mark.parametrize(
    ("arrays", "code", "part"),
    [
        ({"x": (3, 2)}, "data_input_missing", "input 'ids' has no array; the file holds 'x'"),
        ({"x": (3, 2), "ids": (3, 6), "idss": (3, 6)}, "data_input_unknown", "did you mean 'ids'?"),
        ({"x": (3, 2), "ids": (4, 6)}, "data_shape_mismatch", "'x' 3, 'ids' 4"),
    ],
)
def test_names_and_counts_that_do_not_match(tmp_path, arrays, code, part):
    error = refusal(npz(tmp_path, **{name: np.ones(shape, int) for name, shape in arrays.items()}), TABLE, IDS)
    assert error.code == code
    assert part in error.failure.detail


def test_one_input_but_two_arrays_of_other_names(tmp_path):
    assert refusal(npz(tmp_path, a=np.ones((3, 2)), b=np.ones((3, 2))), TABLE).code == "data_input_missing"


def test_an_npy_or_csv_cannot_feed_two_inputs(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    assert refusal(tmp_path / "x.npy", TABLE, IDS).code == "data_input_missing"
    assert read(tmp_path / "x.npy", TABLE).count == 3


def test_both_labels_and_y(tmp_path):
    assert refusal(npz(tmp_path, x=np.ones((3, 2)), y=np.ones(3), labels=np.ones(3)), TABLE).code == "labels_invalid"


# ---- csv


def test_a_csv_feeds_a_tabular_input(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,0\n3,4,1\n")
    got = read(tmp_path / "t.csv", TABLE)
    np.testing.assert_array_equal(np.array([[1, 2], [3, 4]], np.float32), got.inputs["x"])
    assert got.labels is not None
    np.testing.assert_array_equal([0, 1], got.labels)


def test_a_csv_with_one_column_too_many_asks_for_the_label(tmp_path):
    (tmp_path / "t.csv").write_text("1,2,0\n3,4,1\n")
    error = refusal(tmp_path / "t.csv", TABLE)
    assert error.code == "data_shape_mismatch"
    assert "calls it `label`" in error.failure.hint


def test_a_csv_cannot_feed_images(tmp_path):
    (tmp_path / "t.csv").write_text("1,2\n")
    assert refusal(tmp_path / "t.csv", IMAGE).code == "data_shape_mismatch"


# ---- kinds


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64, ">f4"])
def test_numbers_become_floats(tmp_path, dtype):
    got = read(npz(tmp_path, x=np.array([[1, 2]], dtype)), TABLE)
    assert got.inputs["x"].dtype == np.dtype(np.float32)
    np.testing.assert_array_equal([[1, 2]], got.inputs["x"])


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (TABLE, np.ones((2, 2), bool)),
        (TABLE, np.ones((2, 2), complex)),
        (IDS, np.ones((2, 6), np.float32)),
        (IDS, np.ones((2, 6), bool)),
        (FLAG, np.ones((2, 1), np.uint8)),
    ],
)
def test_kinds_that_do_not_fit(tmp_path, spec, array):
    error = refusal(npz(tmp_path, x=array), spec)
    assert error.code == "data_dtype_mismatch"
    assert str(array.dtype) in error.failure.detail


def test_integers_must_fit_the_narrower_type(tmp_path):
    assert refusal(npz(tmp_path, x=np.full((2, 6), 2**40)), IDS).code == "data_dtype_mismatch"


def test_an_input_of_strings_is_refused(tmp_path):
    spec = InputSpec("s", np.dtype(object), (None,))
    assert refusal(npz(tmp_path, x=np.ones(3)), spec).code == "data_dtype_mismatch"


# ---- shapes


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((7, 4, 5, 3), '"NHWC"'),
        ((3, 4, 5), "leading axis"),
        ((7, 3, 4, 6), "as the model takes it"),
        ((7,), "as the model takes it"),
    ],
)
def test_shapes_that_do_not_fit_say_what_to_try(tmp_path, shape, hint):
    error = refusal(npz(tmp_path, x=np.ones(shape)), IMAGE)
    assert error.code == "data_shape_mismatch"
    assert f"the array is {shape} and the model takes (samples, 3, 4, 5)" in error.failure.detail
    assert hint in error.failure.hint


def test_grey_images_without_a_channel_and_flat_models(tmp_path):
    grey = InputSpec("x", np.dtype(np.float32), (None, 1, 28, 28))
    flat = InputSpec("x", np.dtype(np.float32), (None, 784))
    path = npz(tmp_path, x=np.ones((9, 28, 28)))
    assert "x[:, None]" in refusal(path, grey).failure.hint
    assert "reshape(len(x), -1)" in refusal(path, flat).failure.hint


def test_a_fixed_batch_is_no_limit_on_samples(tmp_path):
    fixed = InputSpec("x", np.dtype(np.float32), (8, 2))
    assert read(npz(tmp_path, x=np.ones((11, 2))), fixed, batch=8).count == 11


@pytest.mark.parametrize("shape", [(), (2, None, 128)])
def test_an_input_without_a_samples_axis(tmp_path, shape):
    state = InputSpec("state", np.dtype(np.float32), shape)
    error = refusal(npz(tmp_path, x=np.ones((2, 1, 128))), state, IDS)
    assert error.code == "data_shape_mismatch"
    assert "no axis for samples" in error.failure.detail


def test_no_samples(tmp_path):
    free = InputSpec("x", np.dtype(np.int32), (None, None))
    assert refusal(npz(tmp_path, x=np.ones((0, 2))), TABLE).code == "data_empty"
    assert refusal(npz(tmp_path, x=np.ones((3, 0), int)), free).code == "data_empty"


def test_one_number_is_no_array_of_samples(tmp_path):
    assert refusal(npz(tmp_path, x=np.float32(1)), TABLE).code == "data_shape_mismatch"


def test_a_model_without_inputs_takes_no_data(tmp_path):
    assert refusal(npz(tmp_path, x=np.ones(3))).code == "data_input_unknown"


def test_the_limit_counts_the_bytes_that_the_model_is_fed(tmp_path):
    path = npz(tmp_path, x=np.zeros((200_000, 2), np.uint8))
    assert read(path, TABLE, max_bytes=1_600_000).count == 200_000
    assert refusal(path, TABLE, max_bytes=1_599_999).code == "data_too_large"


# ---- finiteness


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(tmp_path, bad):
    x = np.zeros((3_000_000, 2), np.float16)
    x[2_999_998, 1] = bad
    error = refusal(npz(tmp_path, x=x), TABLE, max_bytes=1 << 27)
    assert error.code == "data_not_finite"
    assert f"sample 2999998 holds {bad}" == error.failure.detail


def test_what_overflows_is_named(tmp_path):
    error = refusal(npz(tmp_path, x=np.array([[0, 0], [1e300, 0]])), TABLE)
    assert error.code == "data_not_finite"
    assert "sample 1 holds 1e+300, which is not finite as float32" in error.failure.detail


# ---- labels


@pytest.mark.parametrize(
    "labels", [np.arange(4), np.array(["a", "b", "c"]), np.array([0, np.nan, 1]), np.int64(3), np.ones((3, 0))]
)
def test_labels_that_do_not_match(tmp_path, labels):
    error = refusal(npz(tmp_path, x=np.ones((3, 2)), labels=labels), TABLE)
    assert error.code in ("labels_invalid", "data_dtype_mismatch")


@pytest.mark.parametrize(("dtype", "want"), [(np.uint8, "int64"), (bool, "bool"), (np.float32, "float64")])
def test_labels_keep_their_kind(tmp_path, dtype, want):
    got = read(npz(tmp_path, x=np.ones((3, 2)), labels=np.array([0, 1, 1], dtype)), TABLE)
    assert got.labels is not None
    assert str(got.labels.dtype) == want


# ---- preprocess


def pixels() -> np.ndarray:
    return RNG.integers(0, 256, (6, 4, 5, 3), np.uint8)


def test_the_whole_formula(tmp_path):
    x = pixels()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    options = Preprocess(scale=255, mean=mean, std=std, layout="NHWC", channels="BGR")
    got = read(npz(tmp_path, x=x), IMAGE, preprocess=options)
    want = x[..., ::-1].astype(np.float32) / 255
    want = (want - np.array(mean, np.float32)) / np.array(std, np.float32)
    np.testing.assert_array_equal(want.transpose(0, 3, 1, 2), got.inputs["image"])
    assert got.inputs["image"].flags.c_contiguous


@pytest.mark.parametrize(
    "options",
    [{"scale": 255}, {"mean": (0.5,)}, {"std": (0.5,)}, {"mean": (1, 2, 3)}, {"std": (1, 2, 3)}, {"channels": "BGR"}],
)
def test_every_option_changes_the_numbers(tmp_path, options):
    path = npz(tmp_path, x=pixels().transpose(0, 3, 1, 2))
    plain = read(path, IMAGE).inputs["image"]
    changed = read(path, IMAGE, preprocess=Preprocess(**options)).inputs["image"]
    assert not np.array_equal(plain, changed)


def test_layout_is_decided_against_the_model(tmp_path):
    last = InputSpec("x", np.dtype(np.float32), (None, 4, 5, 3))
    x = pixels().astype(np.float32)
    stays = read(npz(tmp_path, x=x), last, preprocess=Preprocess(layout="NHWC", mean=(1, 2, 3))).inputs["x"]
    np.testing.assert_array_equal(x - np.array([1, 2, 3], np.float32), stays)
    moved = read(npz(tmp_path, x=x.transpose(0, 3, 1, 2)), last, preprocess=Preprocess(layout="NCHW")).inputs["x"]
    np.testing.assert_array_equal(x, moved)
    free = InputSpec("x", np.dtype(np.float32), (None, None, None, None))
    onnx_way = read(npz(tmp_path, x=x), free, preprocess=Preprocess(layout="NHWC")).inputs["x"]
    np.testing.assert_array_equal(x.transpose(0, 3, 1, 2), onnx_way)


def test_tables_take_a_mean_for_each_feature(tmp_path):
    got = read(npz(tmp_path, x=np.array([[1.0, 10.0]])), TABLE, preprocess=Preprocess(mean=(1, 4), std=(1, 2)))
    np.testing.assert_array_equal([[0, 3]], got.inputs["x"])


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"mean": (1, 2)}, '"NHWC"'),
        ({"std": (1, 2, 3, 4)}, '"NHWC"'),
        ({"mean": (1, 2), "layout": "NCHW"}, "one for each channel"),
    ],
)
def test_lengths_that_do_not_fit(tmp_path, options, hint):
    path = npz(tmp_path, x=pixels().transpose(0, 3, 1, 2))
    error = refusal(path, IMAGE, preprocess=Preprocess(**options))
    assert error.code == "preprocess_invalid"
    assert hint in error.failure.hint


@pytest.mark.parametrize("options", [{"layout": "NHWC"}, {"channels": "BGR"}])
def test_tables_have_no_layout_and_no_colours(tmp_path, options):
    error = refusal(npz(tmp_path, x=np.ones((3, 2))), TABLE, preprocess=Preprocess(**options))
    assert error.code == "preprocess_invalid"


def test_preprocess_leaves_integer_inputs_alone(tmp_path):
    path = npz(tmp_path, x=np.full((3, 2), 255.0), ids=np.full((3, 6), 255))
    got = read(path, TABLE, IDS, preprocess=Preprocess(scale=255))
    np.testing.assert_array_equal(np.ones((3, 2)), got.inputs["x"])
    np.testing.assert_array_equal(np.full((3, 6), 255), got.inputs["ids"])
    named = refusal(path, TABLE, IDS, preprocess=Preprocess(scale=255, inputs=("ids",)))
    assert named.code == "preprocess_invalid"


def test_several_float_inputs_must_be_named(tmp_path):
    other = InputSpec("z", np.dtype(np.float32), (None, 1))
    path = npz(tmp_path, x=np.ones((3, 2)), z=np.ones((3, 1)))
    assert refusal(path, TABLE, other, preprocess=Preprocess(scale=2)).code == "preprocess_invalid"
    unknown = refusal(path, TABLE, other, preprocess=Preprocess(scale=2, inputs=("zz",)))
    assert "did you mean 'z'?" in unknown.failure.detail
    got = read(path, TABLE, other, preprocess=Preprocess(scale=2, inputs=("z",)))
    np.testing.assert_array_equal(np.ones((3, 2)), got.inputs["x"])
    np.testing.assert_array_equal(np.full((3, 1), 0.5), got.inputs["z"])
