"""The option --config: what config.json holds, overridden by the command line."""

import json
from pathlib import Path

import pytest

from milk_recsys.config.command_line import parse_options
from milk_recsys.config.options import Options, to_json


def write(path: Path, values: object) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_a_config_gives_the_options_of_its_run(tmp_path):
    options = Options.of("keep", ridge=3.0, data=Path("d"), out=Path("o"), seed=4, threads=2)
    values = {**to_json(options), "dataset": {"name": "d"}, "resume": True}
    parsed = parse_options(["--config", write(tmp_path / "c.json", values)])
    assert parsed == options.replace(out=None)
    milk = Options.of("milk", preset="paper", lr=0.3, epochs=7)
    config = write(tmp_path / "m.json", to_json(milk))
    assert parse_options(["--config", config]) == milk
    changed = parse_options(["--lr", "0.2", "--config", config, "--epochs", "8", "--seed=1"])
    assert changed == milk.replace(lr=0.2, epochs=8, seed=1)


def test_a_part_of_a_config_is_enough_and_a_preset_overrides_it(tmp_path):
    config = write(tmp_path / "c.json", {"model": "milk", "epochs": 5, "method": {"lr": 0.5}})
    parsed = parse_options(["--config", config])
    assert parsed == Options.of("milk", epochs=5, lr=0.5, **_preset("recommended", "lr", "epochs"))
    paper = parse_options(["--config", config, "--preset", "paper"])
    from milk_recsys.methods.milk import PRESETS

    assert paper.method.lr == PRESETS["paper"].get("lr", 0.5)
    assert paper.method.preset == "paper"
    flat = write(tmp_path / "f.json", {"model": "keep", "ridge": 2.0})
    assert parse_options(["--config", flat]) == Options.of("keep", ridge=2.0)


def _preset(name, *without):
    from milk_recsys.methods.milk import PRESETS

    values = {**PRESETS[name], "preset": name}
    return {key: value for key, value in values.items() if key not in without}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rigde": 1.0}, "'rigde' is not an option of keep. Did you mean 'ridge'?"),
        ({"method": {"alpha": 1.0}}, "'alpha' is not an option of keep"),
        ({"seed": "one"}, "--seed cannot be 'one'"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"model": "keeep"}, "there is no such method"),
        ({"ridge": 1.0, "method": {"ridge": 1.0}}, "has ridge twice"),
        ([1], "must be a JSON object of options"),
        ({"method": 3}, "must be a JSON object of options"),
    ],
)
def test_bad_configs_end_with_status_2(tmp_path, capsys, content, message):
    with pytest.raises(SystemExit) as ended:
        parse_options(["--config", write(tmp_path / "c.json", content)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_config_that_is_absent_or_no_json(tmp_path, capsys, trained_run):
    (tmp_path / "c.json").write_text("{")
    for path in (tmp_path / "c.json", tmp_path / "none.json", tmp_path):
        with pytest.raises(SystemExit):
            parse_options(["--config", str(path)])
        assert "cannot be read as JSON" in capsys.readouterr().err
    config = write(tmp_path / "d.json", {"seed": 1})
    with pytest.raises(SystemExit):
        parse_options(["--config", config, "--resume", "--out", str(trained_run.folder)])
    assert "has its own options" in capsys.readouterr().err


def test_the_help_names_the_option(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--help"])
    assert "--config" in capsys.readouterr().out
