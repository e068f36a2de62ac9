"""The command line: defaults, presets, errors, and that it does not import torch."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from milk_recsys.config.command_line import given_options, parse_options
from milk_recsys.config.method import find_method
from milk_recsys.config.options import (
    GROUPS,
    OptionError,
    Options,
    common_fields,
    flag,
    from_json,
    to_json,
)
from milk_recsys.methods.milk import PRESETS

EXAMPLES = Path(__file__).parents[3] / "examples"


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def changed(values, change):
    """Return the JSON form of options with some values changed, each in its own group."""
    own = values["method"]
    return (
        values
        | {k: v for k, v in change.items() if k not in own}
        | {"method": own | {k: v for k, v in change.items() if k in own}}
    )


def test_no_argument_trains_keep():
    options = parse_options([])
    assert options.run.model == "keep"
    assert options == Options() == Options.of()
    assert parse_options(["--rank", "64"]).method.rank == 64


def test_a_preset_selects_milk():
    assert parse_options(["--preset", "recommended"]) == Options.of(model="milk")
    assert parse_options(["--preset", "paper", "--model", "envs"]).run.model == "envs"


def test_options_of_milk_are_refused_for_other_models(capsys):
    for argv, model in (
        (["--alpha", "1"], "keep"),
        (["--model", "duif", "--no-tf32", "--alpha=1"], "duif"),
    ):
        with pytest.raises(SystemExit) as caught:
            parse_options(argv)
        assert caught.value.code == 2
        assert f"--alpha is not an option of {model}. Add --model milk" in capsys.readouterr().err


def test_milk_without_options_gives_the_defaults():
    options = parse_options(["--model", "milk"])
    assert options == Options.of(model="milk")
    expected = {
        "setting": "ftmt",
        "missing_rate": 0.5,
        "train_missing_rate": 0.3,
        "model": "milk",
        "epochs": 1000,
        "batch_size": 2048,
        "lr": 1e-3,
        "penalty_weight": 1.0,
        "alignment_weight": 0.05,
        "alpha": 1.0,
        "num_draws": 1,
        "eval_every": 10,
        "patience": 3,
        "monitor": "ndcg@20",
        "candidates": "test",
        "embedding_dim": 64,
        "regulariser_weight": 1e-4,
        "data": None,
        "out": None,
    }
    assert {name: options.value(name) for name in expected} == expected


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options.of(model="milk").run = 1.0  # type: ignore[misc]


def test_every_option_can_be_given():
    argv = shlex.split(
        "--data d --setting mtmt --missing-rate .25 --train-missing-rate 0 "
        "--no-missing-in-validation --split-seed 3 --split s.npz --empty-items drop --model envs "
        "--compare none --seed 4 --out o --resume --device cpu --dtype float64 --threads 2 "
        "--epochs 5 --batch-size 6 --lr .1 --embedding-dim 7 --user-init-std .2 --eval-every 8 "
        "--patience 9 --monitor mrr@10 --candidates all_cold --penalty-weight 2 "
        "--alignment-weight 3 --alpha 4 --num-draws 5 --min-weight .01 --risk-reduction sum "
        "--variance-correction 1 --alignment-reduction item_mean --alignment-mask complete "
        "--envs fixed --regulariser none --regulariser-weight 0 --no-scale-features "
        "--no-scale-before-impute --norm-floor 0 --negatives all --training-fusion available "
        "--inference available_mean --eval-users 4 --features mapped --optimiser adam "
        "--kernels torch --tf32 --compress 9 --user-blocks 3 --shared-negatives 2 "
        "--preset paper"
    )
    options = parse_options(argv)
    fields = {name: field for name, (_, field) in common_fields().items()} | dict(
        options.definition.fields
    )
    for name, field in fields.items():
        if name != "user_table":  # Another value requires float32.
            assert options.value(name) != field.default, name
    assert options.data.folder == Path("d")
    assert options.data.split == Path("s.npz")
    assert options.method.variance_correction == 1
    assert from_json(json.loads(json.dumps(to_json(options)))) == options


@pytest.mark.parametrize("preset", ["recommended", "paper", "authors_code"])
def test_preset_sets_only_options_of_milk(preset):
    options = parse_options(["--preset", preset])
    assert options == Options.of(model="milk", preset=preset, **PRESETS[preset])
    assert not set(PRESETS[preset]) & {
        "data", "setting", "model", "seed", "split_seed", "out", "epochs", "device", "missing_rate",
    }  # fmt: skip
    assert set(PRESETS[preset]) == set(PRESETS["recommended"])


def test_preset_paper():
    options = parse_options(["--preset", "paper"])
    assert (
        options.method.penalty_weight,
        options.method.alignment_weight,
        options.method.alpha,
    ) == (50, 0.5, 0.1)
    assert (options.method.risk_reduction, options.method.variance_correction) == ("mean", 0)
    assert (options.method.alignment_reduction, options.method.alignment_mask) == (
        "element_mean",
        "pair",
    )
    assert (options.method.regulariser, options.method.regulariser_weight) == ("batch", 1e-4)


def test_preset_authors_code():
    options = parse_options(["--preset", "authors_code"])
    assert (
        options.method.penalty_weight,
        options.method.alignment_weight,
        options.method.alpha,
    ) == (50, 0.05, 0.1)
    assert (options.method.risk_reduction, options.method.variance_correction) == ("sum", 1)
    assert (options.method.alignment_mask, options.preparation.scale_before_impute) == (
        "complete",
        False,
    )
    assert (options.data.candidates, options.data.negatives) == ("all_cold", "all")
    assert options.loop.monitor == "ndcg@10"


@pytest.mark.parametrize(
    "argv",
    [
        ["--preset", "paper", "--alpha", "3"],
        ["--alpha", "3", "--preset", "paper"],
        ["--alpha=3", "--preset=paper"],
    ],
)
def test_a_given_option_overrides_the_preset(argv):
    options = parse_options(argv)
    assert (options.method.preset, options.method.alpha, options.method.penalty_weight) == (
        "paper",
        3.0,
        50.0,
    )


def test_a_given_option_overrides_the_preset_even_with_the_recommended_value():
    assert parse_options(["--preset", "paper", "--alpha", "1"]).method.alpha == 1.0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--alpha", "0"], "--alpha must be finite, above 0, got 0.0"),
        (["--alpha", "-1"], "--alpha must be finite, above 0"),
        (["--alpha", "inf"], "--alpha must be finite"),
        (["--lr", "nan"], "--lr must be finite, above 0, got nan"),
        (
            ["--missing-rate", "1.5"],
            "--missing-rate must be finite, at least 0 and at most 1, got 1.5",
        ),
        (
            ["--train-missing-rate", "-.1"],
            "--train-missing-rate must be finite, at least 0 and at most 1",
        ),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--eval-every", "0"], "--eval-every must be at least 1"),
        (["--patience", "0"], "--patience must be at least 1"),
        (["--num-draws", "0"], "--num-draws must be at least 1"),
        (["--embedding-dim", "0"], "--embedding-dim must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--user-blocks", "0"], "--user-blocks must be at least 1, got 0"),
        (["--user-blocks", "2.5"], "--user-blocks"),
        (["--eval-users", "0"], "--eval-users must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--split-seed", "-1"], "--split-seed must be at least 0"),
        (["--penalty-weight", "-1"], "--penalty-weight must be finite, at least 0"),
        (["--alignment-weight", "inf"], "--alignment-weight must be finite"),
        (["--norm-floor", "-1"], "--norm-floor must be finite, at least 0"),
        (["--min-weight", "1"], "--min-weight must be at least 0 and below 1 / modalities"),
        (["--out", __file__], "is a file. Name a folder"),
        (["--model", "gan"], "--model gan: there is no such method. Did you mean gar?"),
        (["--preset", "best"], "invalid choice 'best'"),
        (["--monitor", "ndcg@5"], "invalid choice 'ndcg@5'"),
        (["--epochs", "many"], "Error parsing --epochs"),
        (["--learning-rate", "1"], "Unrecognized options: --learning-rate"),
        (["--lr"], "--lr"),
    ],
)
def test_bad_option_exits_with_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(argv if "--model" in argv else ["--model", "milk", *argv])
    assert caught.value.code == 2
    printed = re.sub(
        r"[\s│]+", " ", capsys.readouterr().err
    )  # Remove the frame and the line breaks.
    assert message in printed


def test_compare_depends_on_the_data():
    assert Options.of(model="milk").resolved().run.compare == "erm"
    assert Options.of(model="milk", data=Path("d")).resolved().run.compare == "none"
    assert Options.of(model="milk", data=Path("d"), compare="erm").resolved().run.compare == "erm"
    assert Options.of(model="milk", compare="none").resolved().run.compare == "none"
    assert Options.of(model="erm").resolved().run.compare == "none"


def test_notes_name_options_without_effect():
    assert Options.of(model="milk").notes() == ()
    assert Options.of(model="milk", setting="mtmt", train_missing_rate=0.1).notes() == ()
    split = Options.of(model="milk", split=Path("s.npz"), split_seed=3, missing_rate=0.2).notes()
    assert [note.split()[0] for note in split] == ["--split-seed", "--missing-rate"]
    # Here the seed has an effect: it draws the evaluated users.
    split = Options.of(model="milk", split=Path("s.npz"), split_seed=3, eval_users=5).notes()
    assert not any("--split-seed" in note for note in split)
    assert "not mtmt" in Options.of(model="milk", train_missing_rate=0.1).notes()[0]
    assert "ftft" in Options.of(model="milk", setting="ftft", missing_rate=0.1).notes()[0]
    assert "--out" in Options.of(model="milk", resume=True).notes()[0]


def test_notes_name_options_that_were_typed_with_their_default():
    argv = ["--split", "s.npz", "--split-seed=0", "--missing_rate", ".5", "--missing-in-validation"]
    given = given_options(argv)
    assert given == {"split", "split_seed", "missing_rate", "missing_in_validation"}
    notes = parse_options(argv).notes(given)
    assert [note.split()[0] for note in notes] == [
        "--split-seed",
        "--missing-rate",
        "--missing-in-validation",
    ]
    argv[-1] = "--no-missing-in-validation"
    assert (
        parse_options(argv)
        .notes(given_options(argv))[-1]
        .startswith("--no-missing-in-validation is ignored")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "abc"}, "--lr cannot be 'abc'"),
        ({"lr": None}, "--lr cannot be None"),
        ({"lr": -1}, "--lr must be finite, above 0"),
        ({"epochs": 2.5}, "--epochs cannot be 2.5"),
        ({"epochs": True}, "--epochs cannot be True"),
        ({"variance_correction": True}, "--variance-correction cannot be True"),
        ({"scale_features": 1}, "--scale-features cannot be 1"),
        ({"model": "gan"}, "--model gan: there is no such method."),
        ({"data": 3}, "--data cannot be 3"),
    ],
)
def test_a_wrong_value_in_the_config_of_a_run_is_named(tmp_path, capsys, change, message):
    (tmp_path / "config.json").write_text(
        json.dumps(changed(to_json(Options.of(model="milk")), change))
    )
    with pytest.raises(SystemExit) as caught:
        parse_options(["--resume", "--out", str(tmp_path)])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert f"{tmp_path / 'config.json'}: is not the config of a run ({message}" in printed


def test_from_json_refuses_unknown_and_missing_names():
    values = to_json(Options.of(model="milk"))
    with pytest.raises(OptionError, match="momentum"):
        from_json(values | {"momentum": 0.9})
    del values["method"]["alpha"]
    with pytest.raises(OptionError, match="alpha"):
        from_json(values)


def test_help_explains_every_option_in_groups():
    code = (
        "import sys; from milk_recsys.config.command_line import parse_options; "
        "parse_options(sys.argv[1:])"
    )
    shown = run_python("-c", code, "--model", "milk", "--help")
    assert shown.returncode == 0
    fields = {name: field for name, (_, field) in common_fields().items()} | dict(
        find_method("milk").fields
    )
    for name, field in fields.items():
        assert f"{flag(name)} " in shown.stdout.replace(",", " ")
        assert len(field.metadata["help"]) > 10
    for group in (*GROUPS, "method"):
        assert f"{group} options" in shown.stdout
    assert "default: erm on the embedded data" in re.sub(r"[\s│]+", " ", shown.stdout)


def test_help_shows_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(["--preset", "authors_code", "--help"])
    assert caught.value.code == 0
    assert "(default: sum)" in re.sub(r"[\s│]+", " ", capsys.readouterr().out)


def test_no_torch_is_imported():
    code = (
        "import sys, milk_recsys.config.command_line, milk_recsys.catalogue.dataset; "
        "import milk_recsys.catalogue.synthetic; "
        "milk_recsys.config.command_line.parse_options([]); assert 'torch' not in sys.modules"
    )
    ran = run_python("-c", code)
    assert ran.returncode == 0, ran.stderr


def test_the_package_exports_only_load_run():
    import milk_recsys

    assert "load_run" in dir(milk_recsys)
    with pytest.raises(AttributeError, match="no attribute 'save_run'"):
        _ = milk_recsys.save_run


@pytest.mark.parametrize("model", ["keep", "milk", "gar", "knn"])
def test_the_command_line_and_python_agree_on_every_default(model):
    assert parse_options(["--model", model]) == Options.of(model)


def test_an_ablation_keeps_the_values_of_milk_and_another_method_takes_its_own():
    milk = Options.of("milk", lr=0.5, seed=3)
    assert milk.replace(model="erm").method.lr == 0.5
    assert milk.replace(model="gar").method.lr == Options.of("gar").method.lr
    assert milk.replace(model="gar").run.seed == 3


def test_options_of_a_method_are_of_its_type():
    with pytest.raises(OptionError, match="has options of the type KeepOptions, got GarOptions"):
        Options(method=Options.of("gar").method)
    with pytest.raises(OptionError, match="--model knn has no option --lr; it has neighbours"):
        Options.of("knn", lr=0.1)


@pytest.mark.parametrize("model", ["milk", "gar", "keep"])
def test_a_config_of_version_0_1_0_opens(model):
    """In version 0.1.0 every config had MILK's options, stored together with the common ones."""
    now = Options.of(model, **({"lr": 0.25} if model != "keep" else {"rank": 7}))
    older = {f.name: f.default for f in dataclasses.fields(find_method("milk").options)}
    values = to_json(now)
    if model == "milk":
        values |= values["method"] | {"method": None}
        for name in (
            "optimiser",
            "kernels",
            "compress",
            "user_table",
            "user_blocks",
            "shared_negatives",
            "envs",
            "tf32",
            "eval_users",
            "features",
        ):
            del values[name]
        opened = from_json(values)
        assert (opened.method.optimiser, opened.method.kernels, opened.data.features) == (
            "adam",
            "torch",
            "memory",
        )
        assert opened.method.lr == 0.25
        return
    assert from_json({**older, **values}) == now


def test_a_run_is_not_resumed_with_another_model(trained_run, capsys):
    with pytest.raises(SystemExit):
        parse_options(["--resume", "--out", str(trained_run.folder), "--model", "keep"])
    assert "--model keep: the run in" in (error := capsys.readouterr().err)
    assert "was started with milk. Leave the option out" in error
