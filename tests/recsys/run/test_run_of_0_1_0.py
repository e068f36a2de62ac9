"""A run that version 0.1.0 trained is opened today, and scores new items as it did.

`run_of_0_1_0` is the folder of that run (30 users, 40 items, two modalities, two epochs), as the
code of commit 79ef8e7 wrote it, without its report, history and checkpoint. `scores.json` in it has
the features of six new items (null for a missing modality), and the scores by that code.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from milk_recsys import load_run
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.split_file import read_split
from milk_recsys.config.options import from_json
from milk_recsys.recommend import main
from milk_recsys.run.begin import dataset_facts

FOLDER = Path(__file__).parent / "run_of_0_1_0"
KNOWN = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))
DIMS = {"text": 6, "image": 4}


def features() -> dict[str, np.ndarray]:
    """Return the features of the new items, with NaN where a modality is missing."""
    return {
        name: np.array([row or [np.nan] * DIMS[name] for row in rows], dtype=np.float32)
        for name, rows in KNOWN["features"].items()
    }


def test_its_scores_are_those_of_0_1_0():
    scorer = load_run(FOLDER, device="cpu")
    assert scorer.dims == DIMS
    assert scorer.num_users == 30
    assert int(scorer.trained_users.sum()) == KNOWN["trained_users"] == 28
    assert scorer.user_names[0] == 'user "0", né'
    scores = scorer.score(KNOWN["users"], features())
    torch.testing.assert_close(scores, torch.tensor(KNOWN["scores"]), rtol=0, atol=1e-6)
    # Each pattern of missing modalities is among the new items, so each was compared.
    missing = [[row is None for row in rows] for rows in KNOWN["features"].values()]
    assert set(zip(*missing, strict=True)) == {(False, False), (True, False), (False, True)}


@pytest.mark.parametrize("format_", ["tsv", "parquet"])
def test_recommend_opens_it(format_, tmp_path):
    (tmp_path / "items/features").mkdir(parents=True)
    for name, x in features().items():
        np.save(tmp_path / f"items/features/{name}.npy", x)
    words = ["--run", FOLDER, "--items", tmp_path / "items", "--out", tmp_path / "out"]
    assert main([*map(str, words), "--format", format_, "--device", "cpu"]) == 0
    assert (tmp_path / f"out/users.{format_}").stat().st_size > 0


def test_its_split_is_drawn_today(write_dataset, tmp_path):
    """Today's code reads the same data, with the same fingerprint, and draws the same split."""
    config = read_json(FOLDER / "config.json")
    dataset = read_dataset(write_dataset(tmp_path / "data", dims=DIMS))
    facts = dataset_facts(dataset)
    assert {name: facts[name] for name in config["dataset"]} == config["dataset"]
    options = from_json({name: x for name, x in config.items() if name != "dataset"})
    drawn, _ = draw_split(dataset, options.data)
    stored, _ = read_split(FOLDER / "split.npz", dataset, options.data.setting)
    for part in ("warm", "validation", "test", "mask"):
        np.testing.assert_array_equal(getattr(drawn, part), getattr(stored, part))
