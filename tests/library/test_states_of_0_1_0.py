"""States that version 0.1.0 saved are loaded, and give the numbers that they gave.

The files of `states_of_0_1_0` are state dicts as the code of commit 79ef8e7 made them, fitted on
the rows of `known.json`, which also has the results of that code.
"""

import json
from pathlib import Path

import pytest
import torch

from invmod import ModalityEncoders
from invmod.imputation import MeanImputer, ZeroImputer

safetensors = pytest.importorskip("safetensors.torch")
FOLDER = Path(__file__).parent / "states_of_0_1_0"
KNOWN = json.loads((FOLDER / "known.json").read_text(encoding="utf-8"))
FEATURES = {name: torch.tensor(KNOWN[name]) for name in ("text", "image")}
MASK = torch.tensor(KNOWN["mask"])
IMPUTERS = {"mean": MeanImputer, "zero": ZeroImputer}


@pytest.mark.parametrize("name", IMPUTERS)
def test_an_imputer_fills_as_it_did(name):
    imputer = IMPUTERS[name](["text", "image"])
    imputer.load_state_dict(safetensors.load_file(FOLDER / f"{name}.safetensors"))
    filled, usable = imputer(FEATURES, MASK)
    assert usable.all()
    for modality, values in filled.items():
        torch.testing.assert_close(values, torch.tensor(KNOWN[name][modality]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", IMPUTERS)
def test_an_imputer_that_is_fitted_today_has_the_same_state(name):
    rows = torch.tensor(KNOWN["rows"])
    state = IMPUTERS[name](["text", "image"]).fit(FEATURES, MASK, rows=rows).state_dict()
    for key, value in safetensors.load_file(FOLDER / f"{name}.safetensors").items():
        torch.testing.assert_close(state[key], value)


def test_encoders_encode_as_they_did():
    encoders = ModalityEncoders(
        {
            "text": torch.nn.Linear(3, 2),
            "image": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)),
        }
    )
    with pytest.warns(UserWarning, match="an older version saved it"):
        encoders.load_state_dict(safetensors.load_file(FOLDER / "encoders.safetensors"))
    torch.testing.assert_close(encoders(FEATURES, MASK), torch.tensor(KNOWN["z"]))
