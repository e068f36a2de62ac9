"""The command `milk-recsys`, and the packages that it needs in addition to those of invmod."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import milk_recsys
from milk_recsys import __main__ as command
from milk_recsys import train
from milk_recsys.base.extras import extra_needed

COMMANDS = ("train", "recommend", "export", "serve", "prepare", "reproduce", "bench")
FOLDER = Path(milk_recsys.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
# Distributions whose module has another name.
MODULES = {"scikit-learn": "sklearn", "typing-extensions": "typing_extensions"}


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def modules_of(requirements: list[str]) -> set[str]:
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    return {MODULES.get(name, name) for name in names}


def test_help_lists_the_commands(capsys):
    assert command.main(["--help"]) == 0
    output = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z].*\.$", output, flags=re.MULTILINE)
        assert (FOLDER / f"{name}.py").exists()
    assert max(map(len, output.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_its_name_an_example_and_the_manual(name, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.split("\n")[0].startswith(f"usage: milk-recsys {name} [-h]")
    assert f"milk-recsys {name} " in printed[: printed.index("show this help")].partition("\n")[2]
    page = re.fullmatch(r"Manual: (docs/\w+\.md) in .*|Manual: .*html", printed.splitlines()[-1])
    assert page
    assert page[1] is None or (FOLDER.parents[1] / page[1]).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: a command is needed. Choose from train, recommend, export, serve"),
        (["trian"], "error: 'trian' is not a command. Did you mean train? Choose from train,"),
        (["--data", "x"], "error: '--data' is not a command. Choose from train,"),
    ],
)
def test_an_unknown_command_ends_with_one_line_and_status_2(words, message, capsys):
    assert command.main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(message)
    assert output.err.count("\n") == 1


def test_the_command_trains_and_recommends(trained_run, tmp_path, capsys):
    arguments = [
        "--data",
        str(trained_run.data),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--compare=none",
    ]
    assert command.main(["train", *arguments]) == 0
    assert f"report: {tmp_path / 'run/report.html'}" in capsys.readouterr().out
    status = command.main(
        ["recommend", "--run", str(tmp_path / "run"), "--items", str(trained_run.data)]
    )
    assert status == 0
    assert (tmp_path / "run/recommendations/users.parquet").exists()


def test_train_main_reads_its_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main(["--data", str(tmp_path / "nowhere")], prog="other")
    assert ended.value.code == 2
    assert "no such folder" in capsys.readouterr().err


# Runs the command, or the script that the first argument names. The exit status is 3 if torch has
# been imported.
WITHOUT_TORCH = """
import runpy, sys
del sys.argv[0]
try:
    if sys.argv[0] == "milk-recsys":
        from milk_recsys.__main__ import main
        sys.exit(main(sys.argv[1:]))
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    sys.exit(3 if "torch" in sys.modules else ended.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_imports_torch_for_its_help(name):
    for words in (["milk-recsys", name], [str(FOLDER / f"{name}.py")]):
        ran = python(WITHOUT_TORCH, *words, "--help")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "nowhere"], "no such folder"),
        (["train", "--alhpa", "1"], "--alhpa"),
        (["recommend", "--run", "nowhere"], "--items"),
        (["export", "--run", "nowhere", "--out", "x"], "--items"),
        (["serve", "--run", "nowhere", "--threads", "0"], "--threads must be at least 1"),
        (["prepare", "mmrec", "--folder", "nowhere", "--out", "{tmp}"], "nowhere"),
        (["prepare", "mmrek"], "mmrek"),
        (["reproduce", "table2"], "--data is needed"),
        (["reproduce", "table2", "--data", "nowhere"], "no such folder"),
        (["reproduce", "field", "--smoke", "--methods", "nobody"], "nobody"),
        (["bench", "tasks", "lfm2k"], "must be SET/SETTING/SEEDS"),
        (["bench", "standings", "--results", "nowhere"], "holds no results"),
    ],
)
def test_bad_options_and_data_are_refused_before_torch_is_imported(words, message, tmp_path):
    words = [word.format(tmp=tmp_path / "out") for word in words]
    ran = python(WITHOUT_TORCH, "milk-recsys", *words)
    assert ran.returncode == 2, ran.stderr
    assert message in ran.stderr


WITHOUT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def test_load_run_without_the_extra_names_the_extra_to_install():
    without = WITHOUT.format(hidden={"safetensors"})
    ran = python(
        without + "import milk_recsys\ntry: milk_recsys.load_run\nexcept ImportError as e: print(e)"
    )
    assert (
        ran.stdout
        == 'load_run needs safetensors, which is not installed: pip install "invmod[recsys]"\n'
    )
    other = python(WITHOUT.format(hidden={"torch"}) + "from milk_recsys import load_run")
    assert (
        "No module named 'torch'" in other.stderr
    )  # torch is not in the extra, so the error is unchanged.


def test_a_command_without_the_extra_names_the_extra_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "missing_packages", lambda: ["rich", "tyro"])
    for name in command.COMMANDS:
        assert command.main([name, "--help"]) == 2
        expected = (
            f"error: milk-recsys {name} needs rich, tyro, which are not installed: "
            'pip install "invmod[recsys]"\n'
        )
        assert capsys.readouterr().err == expected
    assert extra_needed("x", ["rich"]).startswith("x needs rich, which is not installed")
    assert command.main(["--help"]) == 0


def test_the_package_and_the_help_of_the_command_import_no_other_package():
    code = (
        "import sys; before = set(sys.modules)\n"
        "from milk_recsys.__main__ import main; main(['--help'])\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "new -= sys.stdlib_module_names\n"
        "sys.exit(str(new - {'milk_recsys'}) if new != {'milk_recsys'} else 0)"
    )
    ran = python(code)
    assert ran.returncode == 0, ran.stderr


def test_the_core_needs_four_packages():
    assert modules_of(PROJECT["dependencies"]) == {"torch", "numpy", "einops", "typing_extensions"}
