"""The command line of `prepare`: its help, and options that are given several times."""

import dataclasses

import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.importers.command_line import parse_source


def parse(*words):
    return parse_source(words, prepare.SOURCES, prog="prepare.py", description="Prepare.")


@pytest.mark.parametrize(
    "words",
    [
        ["--features", "a=x", "--features", "b=y", "c=z"],
        ["--features=a=x", "--text", "t=f:t", "--features", "b=y", "--features=c=z"],
        ["--features", "a=x", "b=y", "c=z"],
    ],
)
def test_an_option_that_is_given_several_times_has_all_its_values(words):
    source = parse("table", "--pairs", "p", *words, "--out", "o")
    assert source.features == ("a=x", "b=y", "c=z")


def test_a_text_that_begins_with_a_dash_is_a_value():
    source = parse("table", "--pairs", "p", "--missing", "-", "-1", "--missing=n/a", "--out", "o")
    assert source.missing == ("-", "-1", "n/a")


@pytest.mark.parametrize("name", prepare.SOURCES)
def test_the_help_of_a_source_explains_each_option_on_lines_that_fit(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        parse(name, "--help")
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    assert "None" not in output
    assert "(default: )" not in output
    for field in dataclasses.fields(prepare.SOURCES[name]):
        assert f"--{field.name.replace('_', '-')}" in output


def test_an_unknown_option_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("table", "--pairs", "p", "--fetures", "a=x", "--out", "o")
    assert ended.value.code == 2
    assert "--fetures" in capsys.readouterr().err
