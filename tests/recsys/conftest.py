"""A small data set on disk, and a run trained on it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from milk_recsys import train
from milk_recsys.__main__ import main
from milk_recsys.config.options import Options
from milk_recsys.run import begin

Outcome = tuple[int, str, str]
"""Exit status of a command, and what it printed on stdout and stderr."""

DIMS = {"text": 6, "image": 4, "audio": 3}


def _write_dataset(
    folder: Path,
    *,
    users: int = 30,
    items: int = 40,
    dims: dict[str, int] = DIMS,
    idle_users: int = 2,
    pairs_per_user: int = 9,
    names: bool = True,
    missing: bool = True,
    dtype: type = np.float32,
    seed: int = 0,
) -> Path:
    """Write a small data set and return its folder.

    The last `idle_users` users have no pair, and every item has the first modality. With `missing`,
    every fourth item lacks the second modality.
    """
    rng = np.random.default_rng(seed)
    (folder / "features").mkdir(parents=True)
    taste, kind = rng.standard_normal((users, 2)), rng.standard_normal((items, 2))
    liked = np.argsort(-(taste @ kind.T + rng.gumbel(size=(users, items))), axis=1)[
        :, :pairs_per_user
    ]
    lines = [f"{u}\t{i}" for u in range(users - idle_users) for i in sorted(liked[u])]
    (folder / "interactions.tsv").write_text(
        "\n".join(["user\titem", *lines]) + "\n", encoding="utf-8"
    )
    for place, (name, dim) in enumerate(dims.items()):
        x = kind @ rng.standard_normal((2, dim)) + 0.3 * rng.standard_normal((items, dim))
        if missing and place == 1:
            x[::4] = np.nan
        np.save(folder / f"features/{name}.npy", x.astype(dtype))
    modalities = {name: {"file": f"features/{name}.npy", "dim": dim} for name, dim in dims.items()}
    manifest = {"name": "tiny", "num_users": users, "num_items": items, "modalities": modalities}
    (folder / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    if names:
        for kind, count in (("user", users), ("item", items)):
            rows = [f'{k}\t{kind} "{k}", né' for k in range(count)]
            (folder / f"{kind}s.tsv").write_text(
                "\n".join([f"{kind}\tname", *rows]) + "\n", encoding="utf-8"
            )
    return folder


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., Path]:
    """The function `write_dataset(folder, ...)` that writes a small data set."""
    return _write_dataset


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run on a small data set with three modalities.

    Its attributes are `folder`, `data`, `dataset`, `options` and `metrics`.
    """
    from milk_recsys.run.progress import Progress
    from milk_recsys.train import run

    root = tmp_path_factory.mktemp("trained")
    # 12 test items, more than the smallest K of the metrics.
    data = _write_dataset(root / "data", items=120, pairs_per_user=20)
    options, dataset = begin.open_run(
        Options.of(
            model="milk",
            data=data,
            out=root / "run",
            compare="none",
            epochs=2,
            eval_every=1,
            batch_size=64,
            embedding_dim=8,
            lr=0.05,
            device="cpu",
        )
    )
    metrics = run(options, dataset, Progress(quiet=True))
    return SimpleNamespace(
        folder=root / "run", data=data, dataset=dataset, options=options, metrics=metrics
    )


@pytest.fixture
def outcome(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a command; return its status and what it printed."""
    monkeypatch.setattr(train, "write_report", lambda folder: (folder / "report.html").touch())

    def run(*words: object) -> Outcome:
        try:
            status = main(list(map(str, words)))
        except SystemExit as exit_:
            status = exit_.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def one_sentence(outcome: Outcome) -> str:
    """Return the message of a refusal: one line on stderr, with status 2."""
    status, _, error = outcome
    assert status == 2, outcome
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
