"""The command recommend: tables that agree with the evaluation, names, formats, and errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from milk_recsys import load_run
from milk_recsys.catalogue.dataset import DataError
from milk_recsys.catalogue.new_items import read_items
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics
from milk_recsys.recommend import RecommendOptions, main, recommend

SCRIPT = Path(__file__).parents[2] / "examples/milk_recsys/recommend.py"
DIMS = {"text": 6, "image": 4, "audio": 3}


def write_items(
    folder: Path, features: dict[str, np.ndarray], names: list[str] | None = None
) -> Path:
    (folder / "features").mkdir(parents=True)
    for name, x in features.items():
        np.save(folder / f"features/{name}.npy", x)
    if names:
        lines = [f"{k}\t{name}" for k, name in enumerate(names)]
        (folder / "items.tsv").write_text(
            "\n".join(["item\tname", *lines]) + "\n", encoding="utf-8"
        )
    return folder


def some_features(count: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((count, dim)).astype(np.float32) for name, dim in DIMS.items()
    }


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Seven new items; item 2 has no image, item 5 only audio."""
    features = some_features()
    features["image"][[2, 5]] = np.nan
    features["text"][5] = np.nan
    return write_items(tmp_path / "new", features, [f'song "{k}"' for k in range(7)])


def run(
    trained_run, items: Path, out: Path, **options
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Return both tables and the printed lines."""
    output: list[str] = []
    given = RecommendOptions(run=trained_run.folder, items=items, out=out, device="cpu", **options)
    recommend(given, output.append)
    kind = options.get("format", "parquet")
    return *(read(out / f"{name}.{kind}") for name in ("users", "items")), output  # type: ignore[return-value]


def read(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path, separator="\t", quote_char=None)


# --- correct input --------------------------------------------------------------------------------


def test_lists_rank_the_test_items_as_evaluation_did(trained_run, tmp_path):
    """Lists of the test items, with the modalities left by the split, give the run's metrics."""
    split = np.load(trained_run.folder / "split.npz")
    test, mask = split["test"], split["mask"]
    assert not mask[test].all()
    features = {}
    for column, (name, x) in enumerate(trained_run.dataset.features.items()):
        features[name] = np.where(mask[test, column, None], x[test], np.float32(np.nan))
    users, _, _ = run(
        trained_run, write_items(tmp_path / "new", features), tmp_path / "out", top=len(test)
    )
    place = {
        (user, test[item]): rank - 1
        for user, rank, item in users.select("user", "rank", "item").rows()
    }
    pairs = trained_run.dataset.interactions
    pairs = pairs[np.isin(pairs[:, 1], test)]
    ranks = torch.tensor([place[int(user), item] for user, item in pairs])
    means = mean_metrics(per_user_metrics(torch.from_numpy(pairs[:, 0].astype(np.int64)), ranks))
    stored = trained_run.metrics["test"]
    assert means == pytest.approx({name: stored[name] for name in means}, abs=1e-12)


def test_the_tables(trained_run, items, tmp_path):
    users, new, output = run(trained_run, items, tmp_path / "out", top=3)
    features = {name: np.load(items / f"features/{name}.npy") for name in DIMS}
    scores = load_run(trained_run.folder, device="cpu").score(None, features).numpy()

    assert users.schema == {
        "user": pl.Int64,
        "user_name": pl.String,
        "trained": pl.Boolean,
        "rank": pl.Int32,
        "item": pl.Int64,
        "item_name": pl.String,
        "score": pl.Float32,
    }
    assert new.columns == ["item", "item_name", "rank", "user", "user_name", "score"]
    assert users["user"].to_list() == np.repeat(np.arange(30), 3).tolist()
    assert users["rank"].to_list() == [1, 2, 3] * 30
    assert (
        users["item"].to_list()
        == np.argsort(-scores, axis=1, kind="stable")[:, :3].ravel().tolist()
    )
    assert users.select(pl.col("trained") == (pl.col("user") < 28)).to_series().all()
    assert new["item"].to_list() == np.repeat(np.arange(7), 3).tolist()
    assert (
        new["user"].to_list()
        == np.argsort(-scores[:28].T, axis=1, kind="stable")[:, :3].ravel().tolist()
    )
    for table in (users, new):
        assert (
            table["score"].to_numpy() == scores[table["user"].to_numpy(), table["item"].to_numpy()]
        ).all()
        assert table["user_name"].to_list() == [f'user "{user}", né' for user in table["user"]]
        assert table["item_name"].to_list() == [f'song "{item}"' for item in table["item"]]
    assert "2 of 30 users have no training pair" in output[0]
    assert output[-1].startswith("30 users and 7 new items: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "items.parquet",
        "users.parquet",
    ]


def test_tsv_holds_the_same(trained_run, items, tmp_path):
    parquet = run(trained_run, items, tmp_path / "parquet")[:2]
    tsv = run(trained_run, items, tmp_path / "tsv", format="tsv")[:2]
    for expected, read_back in zip(parquet, tsv, strict=True):
        assert read_back.with_columns(
            pl.col("rank").cast(pl.Int32), pl.col("score").cast(pl.Float32)
        ).equals(expected)
    first = (tmp_path / "tsv/users.tsv").read_text(encoding="utf-8").splitlines()[:2]
    assert first[0] == "user\tuser_name\ttrained\trank\titem\titem_name\tscore"
    assert first[1].startswith('0\tuser "0", né\ttrue\t1\t')


@pytest.mark.parametrize("kind", ["parquet", "tsv"])
def test_tables_written_in_parts_are_the_same(trained_run, items, tmp_path, monkeypatch, kind):
    whole = run(trained_run, items, tmp_path / "whole", format=kind)[:2]
    monkeypatch.setattr("milk_recsys.run.scorer.CPU_SCORES", 16)
    monkeypatch.setattr("milk_recsys.run.scorer.ITEMS_AT_ONCE", 3)
    monkeypatch.setattr("milk_recsys.run.scorer.LISTS_AT_ONCE", 3)
    monkeypatch.setattr("milk_recsys.exporting.catalogue.ITEMS_AT_ONCE", 2)
    monkeypatch.setattr("milk_recsys.exporting.tables.ROWS_AT_ONCE", 20)
    parts = run(trained_run, items, tmp_path / "parts", format=kind)[:2]
    assert all(one.equals(other) for one, other in zip(whole, parts, strict=True))


def test_a_longer_list_than_there_are_items_or_users(trained_run, items, tmp_path):
    users, new, output = run(trained_run, items, tmp_path / "out", top=29)
    assert len(users) == 30 * 7
    assert len(new) == 7 * 28
    assert any("--top 29: there are only 7 new items" in line for line in output)
    assert any("--top 29: only 28 users have a training pair" in line for line in output)


def test_a_modality_without_a_file_is_missing_for_all(trained_run, tmp_path):
    features = some_features()
    holes = features | {"audio": np.full_like(features["audio"], np.nan)}
    fewer = {name: x for name, x in features.items() if name != "audio"}
    expected = run(trained_run, write_items(tmp_path / "a", holes), tmp_path / "out-a")
    result = run(trained_run, write_items(tmp_path / "b", fewer), tmp_path / "out-b")
    assert all(result[k].equals(expected[k]) for k in (0, 1))
    assert any(
        "audio: no file" in line and "missing for all new items" in line for line in result[2]
    )
    assert "item_name" not in result[0].columns


def test_the_folder_of_a_data_set_can_be_read(trained_run, tmp_path):
    users, _, _ = run(trained_run, trained_run.data, tmp_path / "out")
    assert users["item_name"][0].startswith("item ")
    assert users["item"].max() < 120


def test_dataset_json_names_the_files(tmp_path):
    folder = write_items(tmp_path / "new", {})
    np.save(folder / "words.npy", np.ones((4, 6)))
    entry = {"modalities": {"text": {"file": "words.npy", "dim": 6}}}
    (folder / "dataset.json").write_text(json.dumps(entry))
    read_in = read_items(folder, DIMS)
    assert {name: x.shape for name, x in read_in.features.items()} == {"text": (4, 6)}
    assert read_in.ids.tolist() == [0, 1, 2, 3]
    assert read_in.names is None


def test_items_without_any_modality(trained_run, items, tmp_path):
    for name in DIMS:
        x = np.load(items / f"features/{name}.npy")
        x[[0, 4]] = np.nan
        np.save(items / f"features/{name}.npy", x)
    with pytest.raises(
        DataError, match=r"item 0 has no modality at all \(2 such items\).*--empty-items drop"
    ):
        run(trained_run, items, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    users, new, output = run(trained_run, items, tmp_path / "out", empty_items="drop")
    assert set(users["item"]) == set(new["item"]) == {1, 2, 3, 5, 6}
    assert any("2 items without any modality are left out" in line for line in output)
    assert users["item_name"].to_list() == [f'song "{item}"' for item in users["item"]]
    features = {name: np.load(items / f"features/{name}.npy")[[1, 2, 3, 5, 6]] for name in DIMS}
    scores = load_run(trained_run.folder, device="cpu").score([0], features)[0].numpy()
    expected = np.array([1, 2, 3, 5, 6])[np.argsort(-scores, kind="stable")]
    assert users.filter(user=0)["item"].to_list() == expected.tolist()


def test_existing_tables_are_replaced_only_with_overwrite(trained_run, items, tmp_path):
    out = tmp_path / "out"
    run(trained_run, items, out, top=2)
    with pytest.raises(
        DataError, match=r"users.parquet, .*items.parquet: must not exist yet. Give --overwrite"
    ):
        run(trained_run, items, out, top=3)
    # Errors in the input are reported before existing tables.
    with pytest.raises(DataError, match="no such folder"):
        run(trained_run, items.parent / "nothing", out, top=3)
    assert len(read(out / "users.parquet")) == 60
    users, _, _ = run(trained_run, items, out, top=3, overwrite=True)
    assert len(users) == 90


def test_a_failure_while_writing_leaves_the_old_tables(trained_run, items, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run(trained_run, items, out, top=2)

    def fails(*_, **__):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr("milk_recsys.run.scorer.Scorer.best_users", fails)
    with pytest.raises(DataError, match=r"cannot be written to \(No space left"):
        run(trained_run, items, out, top=3, overwrite=True)
    assert len(read(out / "users.parquet")) == 60
    assert sorted(path.name for path in out.iterdir()) == ["items.parquet", "users.parquet"]


# --- errors ---------------------------------------------------------------------------------------


def spoil(change):
    """Return a function that changes the features of `text` in a folder."""

    def apply(folder: Path) -> None:
        path = folder / "features/text.npy"
        np.save(path, change(np.load(path)))

    return apply


def at(place, value):
    def change(x):
        x[place] = value
        return x

    return spoil(change)


def manifest(content) -> object:
    def apply(folder: Path) -> None:
        (folder / "dataset.json").write_text(
            content if isinstance(content, str) else json.dumps(content)
        )

    return apply


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (at((3, 1), np.nan), r"features/text.npy, row 3: is NaN in some places only"),
        (at((3, 1), np.inf), r"features/text.npy, row 3: has an infinity"),
        (spoil(lambda x: x[:, :5]), r"\(modality 'text'\): has 5 columns, expected 6"),
        (spoil(lambda x: x[:6]), r"\(modality 'text'\): has 6 rows, but there are 7 items"),
        (spoil(lambda x: np.ones(x.shape, int)), r"the dtype must be float16"),
        (
            lambda folder: (folder / "features/text.npy").write_bytes(b"\x80\x04abc"),
            r"pickled Python objects",
        ),
        (
            lambda folder: (folder / "features/text.npy").rename(folder / "features/smell.npy"),
            r"'smell' is unknown",
        ),
        (
            lambda folder: (folder / "items.tsv").write_text("item\tname\n0\ta\n"),
            r"items.tsv: 6 items have no name",
        ),
        (manifest("{"), r"dataset.json: must be JSON"),
        (manifest({"num_items": 7}), r"dataset.json: must be JSON with `modalities`"),
        (manifest({"modalities": {"text": {"file": 3}}}), r"`file` must be a string"),
        (manifest({"modalities": {}, "num_items": True}), r"`num_items` must be a whole number"),
        (
            manifest({"modalities": {"text": {"file": "features/text.npy", "dim": 5}}}),
            r"`dim` of .* is 5, .* on 6\.",
        ),
        (
            manifest({"modalities": {"text": {"file": "features/text.npy", "dim": "6"}}}),
            r"`dim` must be a whole",
        ),
        (manifest({"modalities": {}, "num_items": 7}), r"there are no new items"),
        (manifest({"modalities": {"text": {"file": "../text.npy"}}}), r"leads outside"),
        (manifest({"modalities": {"text": {"file": "none.npy"}}}), r"no such file"),
        (
            manifest({"modalities": {"text": {"file": "features/text.npy"}}, "num_items": 8}),
            r"7 rows, but there are 8",
        ),
    ],
)
def test_bad_items(items, change, match):
    change(items)
    with pytest.raises(DataError, match=match):
        read_items(items, DIMS)


def test_no_items(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_items(tmp_path / "nothing", DIMS)
    with pytest.raises(DataError, match="there are no new items"):
        read_items(tmp_path, DIMS)
    folder = write_items(tmp_path / "empty", some_features(count=0))
    with pytest.raises(DataError, match="there are no new items"):
        read_items(folder, DIMS)
    folder = write_items(tmp_path / "holes", {"text": np.full((2, 6), np.nan)})
    with pytest.raises(DataError, match="none of the new items has any modality"):
        read_items(folder, DIMS, empty_items="drop")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--top", "0"], "--top must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--out", "{items}"], "may hold users.tsv or items.tsv"),
        (["--out", "{run}", "--overwrite"], "may hold users.tsv or items.tsv"),
        (["--out", "{items}/items.tsv"], "is a file. Name a folder"),
        (["--run", "{items}"], "is not the folder of a run"),
        (["--items", "{items}/nowhere"], "no such folder"),
    ],
)
def test_bad_options_end_with_status_2(trained_run, items, capsys, arguments, match):
    given = [text.format(items=items, run=trained_run.folder) for text in arguments]
    assert main(["--run", str(trained_run.folder), "--items", str(items), *given]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert match in output.err
    assert not (trained_run.folder / "recommendations").exists()
    assert not list(items.glob("*.parquet"))


def test_options_that_cannot_be_parsed_end_with_status_2(capsys):
    for arguments in (
        [],
        ["--run", "a", "--items", "b", "--format", "xlsx"],
        ["--run", "a", "--items", "b", "--best"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        capsys.readouterr()


def test_help_explains_the_lists_of_untrained_users(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "without a training pair" in " ".join(capsys.readouterr().out.split())


def test_as_a_command_without_the_training_data(trained_run, items, tmp_path):
    """The script works from another folder, on a copy of the run without the training data."""
    copy = shutil.copytree(trained_run.folder, tmp_path / "elsewhere/run")
    command = [
        sys.executable,
        str(SCRIPT),
        "--run",
        str(copy),
        "--items",
        str(items),
        "--device",
        "cpu",
    ]

    def start() -> subprocess.CompletedProcess[str]:
        # The paths of the test process, in case the packages are not installed.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )

    done = start()
    assert done.returncode == 0, done.stderr
    assert "note: 2 of 30 users have no training pair" in done.stdout
    assert len(read(copy / "recommendations/users.parquet")) == 30 * 7
    again = start()
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "Give --overwrite" in again.stderr
    assert "Traceback" not in again.stderr


def test_options_are_read_without_torch_or_polars():
    code = (
        "import sys; sys.argv = ['recommend.py', '--help']\n"
        "import runpy\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'polars'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode
        == 0
    )
