"""Fits of KEEP with several lists of options, by each process of a test with several ranks.

    torchrun --standalone --nproc-per-node 2 tests/recsys/methods/keep_ranks_worker.py OUT CASES

CASES is a JSON list of cases (see `fitted`). Rank 0 writes, for case number i, the model to
OUT/i.safetensors, the scores to OUT/i.npy, and the rest to OUT/i.json.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from milk_recsys.base.distributed import World, joined_world
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.keep import left_out, model
from milk_recsys.methods.learner import make_learner
from milk_recsys.run.evaluation import evaluate_group


def fitted(case: dict[str, Any], file: Path, world: World) -> dict[str, Any]:
    """Fit KEEP, write it, and read it again.

    Arguments:
        case: ``data``, the folder; ``options``; and ``limits``, the numbers of warm items above
            which the vectors and the regression have other forms.
        file: where rank 0 writes the model.

    Returns:
        the chosen options, the validation metrics, the ``users`` of each rank, and the scores of
        all users for the test items.
    """
    limits = {"MAX_DIRECT": 10_000, "MAX_ROWS": 10_000} | case["limits"]
    with mock.patch.multiple(model, **limits), mock.patch.object(left_out, "MIN_LENGTH", 5):
        options = Options.of("keep", data=case["data"], device="cpu", **case["options"])
        dataset = read_dataset(Path(case["data"]))
        split, _ = draw_split(dataset, options.data)
        tables = build_tables(dataset, split, options, torch.device("cpu"), world)
        learner = make_learner(options, tables, world)
        learner.prepare()
        validation, _ = evaluate_group(learner, tables, tables.validation, tables.mask, world)
        learner.save(file, {"rank": world.rank}, weights_only=True)
        world.barrier()
        before = {name: x.clone() for name, x in learner.model.net.state_dict().items()}
        for x in (*learner.model.net.buffers(), *learner.model.net.parameters()):
            x.zero_()
        assert learner.load(file, weights_only=True) == {"rank": 0}
        after = learner.model.net.state_dict()
        for name, x in before.items():  # NaN stands for an option that was not compared.
            assert torch.equal(x.nan_to_num(-1), after[name].nan_to_num(-1)), name
        score = learner.scorer(tables.features, tables.test.candidates, tables.mask)
        starts = learner.user_starts or [0, dataset.num_users]
        own = torch.arange(starts[world.rank], starts[world.rank + 1])
        sizes = torch.tensor(starts).diff().tolist()
        scores = world.all_gather(score(own), sizes)
    return {
        "chosen": learner.chosen,
        "validation": validation,
        "users": sizes,
        "scores": scores.double().numpy(),
    }


def main() -> None:
    torch.set_num_threads(1)
    out, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
    with joined_world(torch.device("cpu")) as world:
        for number, case in enumerate(cases):
            result = fitted(case, out / f"{number}.safetensors", world)
            if world.is_main:
                np.save(out / f"{number}.npy", result.pop("scores"))
                (out / f"{number}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
