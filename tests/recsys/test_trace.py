"""The functions of invmod that training calls, for MILK on both kernels and for KEEP."""

import inspect
import sys

import pytest

from invmod import (
    alignment,
    encoders,
    environments,
    fusion,
    imputation,
    missingness,
    objectives,
    penalties,
    regression,
)
from milk_recsys.base.device import choose_device
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.run import begin

ROOMS = (
    alignment,
    encoders,
    environments,
    fusion,
    imputation,
    missingness,
    objectives,
    penalties,
    regression,
)
METHODS = {"forward", "sample", "leave_one_out_smoother", "smoother"}
OBJECTIVE = {"CyclicMixupEnvs.sample", "invariant_objective", "vrex_penalty", "vrex_coefficients"}
# The compiled loops of `numba` stand in for these three, and tests hold the loops to them.
COMPOSITION = {"ModalityEncoders.forward", "fuse", "pairwise_alignment_loss"}


def public_calls(run):
    """Call a function; return the public functions and methods of invmod that ran meanwhile."""
    names = {}
    for name, part in ((name, getattr(room, name)) for room in ROOMS for name in room.__all__):
        if inspect.isfunction(part):
            names[part.__code__] = name
        elif inspect.isclass(part):
            for key, method in inspect.getmembers(part, inspect.isfunction):
                if key in METHODS:
                    # An inherited method is listed under the first class in `__all__` that has it.
                    # A decorated method is called through the code of its decorator.
                    names.setdefault(inspect.unwrap(method).__code__, f"{name}.{key}")
    called = set()

    def record(frame, event, _argument):
        if event == "call" and frame.f_code in names:
            called.add(names[frame.f_code])

    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(None)
    return called


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, write_dataset):
    """A function that makes the options and the tables of a run."""
    data = write_dataset(tmp_path_factory.mktemp("trace") / "data", items=120, pairs_per_user=20)

    def make(model, **own):
        flat = {"model": model, "data": data, "compare": "none", "device": "cpu", **own}
        options, dataset = begin.open_run(
            Options.of(**flat, out=tmp_path_factory.mktemp("run") / "out")
        )
        split, _ = draw_split(dataset, options.data)
        return options, build_tables(dataset, split, options, choose_device("cpu"))

    return make


@pytest.mark.parametrize(
    ("kernels", "expected"), [("numba", OBJECTIVE), ("torch", OBJECTIVE | COMPOSITION)]
)
def test_an_epoch_of_milk_runs_the_library(prepared, kernels, expected):
    learner = make_learner(*prepared("milk", kernels=kernels))
    learner.prepare()
    assert public_calls(lambda: learner.train_epoch(1)) == expected


def test_keep_fits_and_scores_by_the_regression_of_the_library(prepared):
    # It has no epochs: `prepare` fits it.
    options, tables = prepared("keep")
    learner = make_learner(options, tables)
    assert public_calls(learner.prepare) == {"PatternKernelRidge.leave_one_out_smoother"}
    candidates = tables.test.candidates
    scored = public_calls(lambda: learner.scorer(tables.features, candidates, tables.mask))
    assert scored == {"PatternKernelRidge.smoother", "rows_by_pattern"}
