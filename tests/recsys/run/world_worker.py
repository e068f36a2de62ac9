"""Training steps with several lists of options, run by each process of a test with several ranks.

    torchrun --standalone --nproc-per-node 2 tests/recsys/run/world_worker.py DATA OUT CASES

CASES is a JSON list of options. Rank 0 writes the JSON file OUT with, for each case, the loss of
every step, the sums of squares of the weights and the validation metrics.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from milk_recsys.base.distributed import World, joined_world
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import build_model
from milk_recsys.run import loop
from milk_recsys.run.evaluation import evaluate_group


def losses(data: Path, values: dict[str, Any], world: World, epochs: int = 4) -> dict[str, Any]:
    """Train for some epochs.

    Returns:
        the loss of every step, the weights' sums of squares, and the validation metrics at the end.
    """
    options = Options.of(
        **{
            "model": "milk",
            "data": data,
            "batch_size": 32,
            "embedding_dim": 8,
            "lr": 0.02,
            **values,
        }
    )
    dataset = read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"), world)
    learner = Learner(build_model(options, tables), tables, options, world)
    step_losses: list[float] = []

    step_on = learner.step_on

    def step(*batch: torch.Tensor) -> torch.Tensor:
        terms = step_on(*batch)
        step_losses.append(float(terms[0]))
        return terms

    learner.step_on = step
    for epoch in range(epochs):
        loop.train_epoch(learner, epoch)
    assert step_losses
    section, _ = evaluate_group(learner, tables, tables.validation, tables.mask, world)
    squares = {
        name: p.detach().double().square().sum() for name, p in learner.model.named_parameters()
    }
    if learner.user_starts is not None:  # Each rank has the rows of some users.
        squares["users.weight"] = world.sum(squares["users.weight"])
    weights = {name: square.item() for name, square in squares.items()}
    return {"losses": step_losses, "weights": weights, "validation": section}


def main() -> None:
    torch.set_num_threads(1)
    data, out, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    with joined_world(torch.device("cpu")) as world:
        results = [losses(data, values, world) for values in cases]
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    # Threads of a process group that outlive it would sometimes abort the process at its exit.
    left = [name for name in threads if "gloo" in name]
    if world.is_main:
        out.write_text(json.dumps({"size": world.size, "cases": results, "threads_left": left}))


if __name__ == "__main__":
    main()
