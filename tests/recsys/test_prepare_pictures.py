"""Pictures in a folder are encoded by a local ONNX model, for the catalogue and for new items."""

import json

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.encoders.pictures import Pictures, find_pictures

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
pytest.importorskip("onnxruntime", reason="needs the extra `pictures`")
Image = pytest.importorskip("PIL.Image", reason="needs the extra `pictures`")

SIZE = 8


def write_model(path, *, batch="n", size=SIZE, pooled=True, channels=3):
    """Write a model that returns the mean of each colour, or (unpooled) the picture itself."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["mean"])]
    nodes.append(helper.make_node("Flatten", ["mean"], ["y"]))
    shape = [batch, channels]
    if not pooled:
        nodes, shape = [helper.make_node("Identity", ["x"], ["y"])], [batch, channels, size, size]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("x", kind, [batch, channels, size, size])],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    # Colours as they are, without the normalisation of ImageNet.
    config = {"image_mean": [0, 0, 0], "image_std": [1, 1, 1], "size": {"shortest_edge": size}}
    (path.parent / "preprocessor_config.json").write_text(json.dumps(config))
    return path


def write_picture(path, colour, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.mark.parametrize("options", [{}, {"batch": 2}, {"pooled": False}])
def test_rows_are_the_output_of_the_model(tmp_path, options):
    encoder = Pictures(write_model(tmp_path / "model.onnx", **options))
    colours = [(255, 0, 51), (0, 102, 0), (51, 51, 255)]
    files = [write_picture(tmp_path / f"{k}.png", colour) for k, colour in enumerate(colours)]
    rows = encoder.encode([files[0], None, *files[1:]])
    expected = np.array([colours[0], (0, 0, 0), *colours[1:]]) / 255
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert encoder.width == 3


def test_pictures_are_cut_at_the_centre_and_normalised(tmp_path):
    model = write_model(tmp_path / "model.onnx")
    config = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    pixels = np.zeros((SIZE, 3 * SIZE, 3), dtype=np.uint8)
    pixels[:, SIZE : 2 * SIZE] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rows = Pictures(model).encode([tmp_path / "a.png"])
    np.testing.assert_allclose(rows, [[2, 1, 0.5]], atol=1e-6)


def test_the_size_comes_from_a_configuration_if_the_model_takes_any(tmp_path):
    model = write_model(tmp_path / "model.onnx", size="s")
    config = {"crop_size": {"height": 16, "width": 16}, "image_mean": [0, 0, 0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert Pictures(model).size == 16
    (tmp_path / "preprocessor_config.json").unlink()
    assert Pictures(model).size == 224
    config = {
        "model_cfg": {"vision_cfg": {"image_size": 32}},
        "preprocess_cfg": {"mean": [0, 0, 0]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert Pictures(model).size == 32
    assert not Pictures(model).mean.any()
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"open_clip_config.json: cannot be read"):
        Pictures(model)


def test_models_and_pictures_that_cannot_be_used_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"is no file. Name an ONNX model"):
        Pictures(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(DataError, match="is no ONNX model"):
        Pictures(tmp_path / "text.onnx")
    with pytest.raises(DataError, match=r"must take pictures \(n, 3, height, width\)"):
        Pictures(write_model(tmp_path / "grey.onnx", channels=1))
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DataError, match=r"bad.png: is no picture that can be read"):
        Pictures(write_model(tmp_path / "model.onnx")).encode([tmp_path / "bad.png"])


def test_pictures_are_found_by_the_ids_of_items(tmp_path):
    first = write_picture(tmp_path / "images/010/0108775015.jpg", "red")
    second = write_picture(tmp_path / "images/011/0110669001.PNG", "blue")
    (tmp_path / "images/readme.txt").write_text("")
    assert find_pictures(tmp_path / "images") == {"0108775015": first, "0110669001": second}
    write_picture(tmp_path / "images/0108775015.png", "red")
    with pytest.raises(DataError, match="has two pictures of '0108775015'"):
        find_pictures(tmp_path / "images")
    with pytest.raises(DataError, match="no such folder"):
        find_pictures(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no pictures"):
        find_pictures(tmp_path / "empty")


def test_a_shop_with_pictures_and_new_items_with_pictures(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    model = write_model(tmp_path / "model/model.onnx")
    names = [f"00{k}" for k in range(9)]
    for k, name in enumerate(names[:-1]):
        write_picture(tmp_path / f"images/{name}.png", (10 * k + 1, 0, 255 - k))
    pairs = [(f"u{k % 4}", names[k % 9]) for k in range(30)]
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_csv(tmp_path / "pairs.csv")
    given = {"pairs": tmp_path / "pairs.csv", "pictures": (f"image={tmp_path / 'images'}",)}
    assert prepare.run_command(prepare.Table(**given, out=tmp_path / "x")) == 2
    assert "--pictures needs --picture-encoder" in capsys.readouterr().err
    source = prepare.Table(**given, picture_encoder=model, out=tmp_path / "data")
    assert prepare.run_command(source) == 0
    dataset = read_dataset(tmp_path / "data", empty_items="drop")
    assert dataset.features["image"].shape == (9, 3)
    assert np.flatnonzero(~dataset.natural_mask[:, 0]).tolist() == [8]
    assert "image: 1 item has no picture in images" in capsys.readouterr().out
    items = {"run": tmp_path / "data", "pictures": (f"image={tmp_path / 'images'}",)}
    assert prepare.run_command(prepare.NewItems(**items, out=tmp_path / "new")) == 0
    new = np.load(tmp_path / "new/features/image.npy")
    assert np.array_equal(new, dataset.features["image"][:8])
    write_model(tmp_path / "model/other.onnx", batch=1)
    other = {"picture_encoder": str(tmp_path / "model/other.onnx"), "out": tmp_path / "y"}
    assert prepare.run_command(prepare.NewItems(**items, **other)) == 2
    assert "is another model than the one of the training data" in capsys.readouterr().err
