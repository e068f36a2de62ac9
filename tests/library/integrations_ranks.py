"""Cases of `test_integrations_ranks.py`, for two processes with the environment of torchrun.

The recipes are the code of docs/integrations.md.
"""

import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

PAGE = Path(__file__).parents[2] / "docs/integrations.md"


def recipes():
    """The functions of the sections on Accelerate and FSDP, without the code that calls them."""
    page = PAGE.read_text(encoding="utf-8")
    names = {}
    exec("import torch\nfrom torch import nn", names)
    for name in ("accelerate_step", "fsdp_step"):
        code = re.search(rf"^```python\n((?:(?!^```).)*?def {name}\(.*?)^```$", page, re.M | re.S)
        exec(compile(code[1], str(PAGE), "exec"), names)
    return names


def micro_batches(names, rank, world):
    """Two micro-batches of a rank's shard of 24 samples; rank None has all samples in one."""
    generator = torch.Generator().manual_seed(0)
    features = {
        "image": torch.randn(24, 6, generator=generator),
        "blood": torch.randn(24, 2, generator=generator),
    }
    mask = torch.rand(24, 2, generator=generator) < 0.8
    targets = torch.randint(2, (24,), generator=generator)
    parts = (
        [slice(None)]
        if rank is None
        else [slice(rank + world * i, None, 2 * world) for i in (0, 1)]
    )
    return [({name: x[p] for name, x in features.items()}, mask[p], targets[p]) for p in parts]


def expected_gradients(names, weights):
    """The gradient of the objective of all samples, in one process at once."""
    torch.manual_seed(0)
    model = names["FusedClassifier"]()
    (whole,) = micro_batches(names, None, 1)
    value = names["objective"](names["environment_sums"](model, whole, weights))
    value.backward()
    return value.detach(), [parameter.grad for parameter in model.parameters()]


def check(gradients, value, expected_value, expected):
    torch.testing.assert_close(value, expected_value)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def accelerate_recipe(rank, world):
    from accelerate import Accelerator

    names = recipes()
    weights = names["CyclicMixupEnvs"](2, alpha=1.0).sample(
        generator=torch.Generator().manual_seed(0)
    )
    expected_value, expected = expected_gradients(names, weights)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == world
    torch.manual_seed(0)
    model = names["FusedClassifier"]()
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    batches = micro_batches(names, rank, world)
    value = names["accelerate_step"](accelerator, model, optimizer, batches, weights)
    check([p.grad for p in model.parameters()], value, expected_value, expected)


def fsdp_recipe(rank, world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    names = recipes()
    weights = names["CyclicMixupEnvs"](2, alpha=1.0).sample(
        generator=torch.Generator().manual_seed(0)
    )
    expected_value, expected = expected_gradients(names, weights)
    torch.manual_seed(0)
    model = names["FusedClassifier"]()
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = micro_batches(names, rank, world)
    value = names["fsdp_step"](model, optimizer, batches, weights)
    check([p.grad.full_tensor() for p in model.parameters()], value, expected_value, expected)


def data():
    features = {"a": torch.linspace(-1, 1, 16)[:, None], "b": torch.ones(16, 1)}
    return features, (features["a"][:, 0] > 0).long()


def accuracy(predictions, targets):
    return (predictions == targets).double().mean().item()


def classes(model, features, mask):
    return model(torch.cat([x.nan_to_num() for x in features.values()], dim=1)).argmax(dim=1)


def sharded_report(rank, world):
    """Sharded parameters: one rank alone is an error at once, all ranks give one report."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from invmod.integrations.training import PeriodicReport

    def broadcast(x):
        objects = [x]
        distributed.broadcast_object_list(objects, src=0)
        return objects[0]

    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    fully_shard(model, mesh=init_device_mesh("cpu", (world,)))
    report = PeriodicReport(*data(), accuracy, predict=classes)
    with pytest.raises(RuntimeError, match="`every_rank=True`"):
        report._figures(model, 1, is_main=rank == 0, broadcast=broadcast)
    report = PeriodicReport(*data(), accuracy, predict=classes, every_rank=True)
    figures = report._figures(model, 1, is_main=rank == 0, broadcast=broadcast)
    assert list(report.reports) == [1]
    assert broadcast(figures) == figures


def lightning_callback(rank, world):
    import pytorch_lightning as pl

    from invmod.integrations.lightning import RobustnessCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    torch.manual_seed(0)
    features, targets = data()
    callback = RobustnessCallback(features, targets, accuracy, predict=classes)
    stop = pl.callbacks.EarlyStopping("robustness/worst", mode="max", stopping_threshold=0.0)
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=world,
        max_epochs=3,
        callbacks=[callback, stop],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    table = torch.cat(list(features.values()), dim=1)
    dataset = torch.utils.data.TensorDataset(table, targets)
    trainer.fit(Module(), torch.utils.data.DataLoader(dataset, batch_size=4))
    assert trainer.world_size == world
    # Rank 0 alone reports; every rank has its figures, and stops after the first epoch by them.
    assert list(callback.reports) == ([1] if rank == 0 else [])
    assert trainer.current_epoch == 1
    worst = [None] * world
    distributed.all_gather_object(worst, trainer.callback_metrics["robustness/worst"].item())
    assert worst[0] == worst[1]
    if rank == 0:
        assert abs(worst[0] - callback.reports[1].worst().value) < 1e-6


def transformers_callback(rank, world):
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from invmod.integrations.transformers import RobustnessCallback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 2)

        def forward(self, x, labels=None):
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    torch.manual_seed(0)
    features, targets = data()
    table = torch.cat(list(features.values()), dim=1)
    rows = [{"x": x, "labels": label} for x, label in zip(table, targets, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            ddp_backend="gloo",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(model=Model(), args=arguments, train_dataset=rows)
        trainer.remove_callback(PrinterCallback)
        callback = RobustnessCallback(
            trainer, features, targets, accuracy, predict=lambda m, f, a: classes(m.net, f, a)
        )
        trainer.add_callback(callback)
        trainer.train()
    assert trainer.args.world_size == world
    assert list(callback.reports) == ([1, 2] if rank == 0 else [])
    logged = [e["robustness/worst"] for e in trainer.state.log_history if "robustness/worst" in e]
    everywhere = [None] * world
    distributed.all_gather_object(everywhere, logged)
    assert everywhere[0] == everywhere[1]
    assert len(logged) == 2


def main():
    # The frameworks warn about themselves; these processes check the code of this library.
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo")
    for name in sys.argv[1:]:
        globals()[name](rank, world)
        if rank == 0:
            print(f"{name} passed", flush=True)
    # Rank 0 has the store of the group, so it must not end before rank 1.
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    # Threads of the frameworks that are still running can abort an interpreter that shuts down, so
    # the process ends without a shutdown. A case that fails raises before.
    sys.stdout.flush()
    os._exit(0)
