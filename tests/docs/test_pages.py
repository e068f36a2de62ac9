"""The pages agree with the code: public names, options, presets, files and targets of make."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import api_pages
import docstrings
import figures
import pytest
import tyro
from torch.distributed.run import get_args_parser

import invmod
from milk_recsys import prepare, reproduce
from milk_recsys.catalogue.importers.command_line import parse_source
from milk_recsys.config import command_line, options
from milk_recsys.config import method as methods
from milk_recsys.config.method import DEFAULT_METHOD, find_method
from milk_recsys.export import ExportOptions
from milk_recsys.methods.milk import PRESETS
from milk_recsys.recommend import RecommendOptions
from milk_recsys.serve import ServeOptions
from milk_recsys.study.plan import NAMES
from rocchio import ROCCHIO
from tests.library.test_public_names import NAMES as PUBLIC_NAMES
from tests.recsys.methods.tiny_baselines import BASELINES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("", "parts/", "examples/", "studies/")
PAGES = sorted(page for folder in FOLDERS for page in DOCS.glob(f"{folder}*.md"))


def read(name: str | Path) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def shown(value: Any) -> str:
    """Format the value of an option as the pages do."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# --- the library


def test_the_pages_document_every_public_name_once() -> None:
    """Names of the top level are documented as `invmod.name`, others as `invmod.room.name`."""
    documented = [entry.name for entry in api_pages.all_entries()]
    own = [name for name in documented if not name.startswith("invmod.integrations.")]
    expected = [f"invmod.{name}" for name in PUBLIC_NAMES if not name.startswith("cli.")]
    assert sorted(own) == sorted(expected)


def test_the_pages_of_names_are_different_files_on_every_system() -> None:
    files = [document.lower() for document in api_pages.documents().values()]
    assert len(set(files)) == len(files)
    assert api_pages.documents()["invmod.environments.Dominance"].endswith("Dominance-class")


def test_every_name_has_a_line_in_the_table_of_its_page_and_in_the_index() -> None:
    entries = api_pages.all_entries()
    index = api_pages.index_page()
    for entry in entries:
        assert entry.summary.endswith("."), entry.name
        assert f":py:obj:`~{entry.name}`\n     - {entry.summary}\n" in index
    source = [read("parts/fusion.md")]
    api_pages.insert_tables(None, "parts/fusion", source)  # type: ignore[arg-type]
    assert "{api}" not in source[0]
    assert source[0].count(":py:obj:`~invmod.") == 8
    assert "fuse </api/generated/invmod.fuse>" in source[0]


def test_options_of_autodoc_are_on_the_page_of_their_name() -> None:
    (entry,) = api_pages.parse("```{api}\ninvmod.GatedFusion\n   :members: gates\n```\n", "parts/x")
    assert api_pages.page_of(entry).endswith(
        ".. autoclass:: invmod.GatedFusion\n   :members: gates\n"
    )


def test_a_return_with_a_colon_is_one_text() -> None:
    """Napoleon would read the part before the colon as a type."""
    lines = ["A line.", "", "Returns:", "    (features, usable): every modality", "    of a row."]
    whole = docstrings.keep_whole([*lines, "", "Raises:", "    ValueError: never."])
    assert whole[2:] == [
        ":returns: (features, usable): every modality",
        "    of a row.",
        "",
        "Raises:",
        "    ValueError: never.",
    ]


def test_the_concepts_page_names_code_for_every_equation_of_the_method() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|.*\| (.*) \|$", read("concepts.md"), re.MULTILINE)
    assert [int(n) for numbers, _ in rows for n in numbers.split(",")] == list(range(5, 19))
    assert all("`" in where for _, where in rows)


def test_functions_of_the_recommender_that_the_concepts_page_names_exist() -> None:
    page = read("concepts.md")
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "examples/milk_recsys").rglob("*.py")
    )
    named = re.findall(r"in the recommender `([\w.]+)`", page)
    assert len(named) >= 4
    for name in named:
        assert re.search(rf"\bdef {name.split('.')[-1]}\(", sources), name
    for path in re.findall(r"`(milk_recsys/[\w/]+\.py)`", page):
        assert (ROOT / "examples" / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_names_of_the_library_in_a_page_exist(page: Path) -> None:
    named = re.findall(r"\binvmod\.(\w+)", read(page))
    assert [name for name in named if not hasattr(invmod, name)] == []


# --- the project


def test_every_page_is_in_a_table_of_contents() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", read("index.md"), re.DOTALL)
    listed = {
        line.strip()
        for tree in trees
        for line in tree.splitlines()
        if line and not line.startswith(":")
    }
    written = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} - {"index"}
    # The build makes guides/index from docs/guide, and api/generated/index from the pages.
    assert listed == written | {"guides/index", "api/generated/index"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_make_targets_in_a_page_exist(page: Path) -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"`make ([a-z-]+)", read(page))) <= targets


def test_readme_and_the_choosing_page_show_the_figures_that_the_script_draws() -> None:
    shown = re.findall(r"images/(\w+)\.png", read("choosing.md"))
    assert sorted([*shown, "digits"]) == sorted(figures.PICTURES)
    assert "docs/images/digits.png" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert all((DOCS / "images" / f"{name}.png").stat().st_size > 1000 for name in shown)


def test_the_study_of_the_choosing_page_is_reproducible() -> None:
    first, again = (figures.small_study(1.0, 5.0, steps=3, seed=1) for _ in range(2))
    assert first == again
    assert all(0.3 < loss < 1.5 for loss in first)


# --- the example


def test_the_example_page_lists_every_option_of_train_py_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(--[a-z0-9-]+)`(?:, `(--no-[a-z0-9-]+)`)? \| (.*?) \|", read("milk.md"), re.MULTILINE
    )
    listed = {name: (default, bool(negated)) for name, negated, default in rows}
    common = {name: field for name, (_, field) in options.common_fields().items()}
    fields = {
        flag(name): f.default for name, f in (common | dict(find_method("milk").fields)).items()
    }
    fields["--model"] = DEFAULT_METHOD
    assert set(listed) == set(fields)
    for name, (default, is_switch) in listed.items():
        assert is_switch == isinstance(fields[name], bool), name
        assert default == shown(fields[name]), name


def test_the_example_page_lists_the_options_that_each_preset_changes() -> None:
    page = read("milk.md")
    table = page[page.index("| preset | sets differently |") :]
    for preset in ("paper", "authors_code"):
        (row,) = re.findall(rf"^\| `{preset}` \| (.*) \|$", table, re.MULTILINE)
        listed = dict(re.findall(r"`(\w+)` (\S+?)(?:,|$)", row))
        recommended = PRESETS["recommended"]
        assert listed == {
            name: shown(v) for name, v in PRESETS[preset].items() if v != recommended[name]
        }


def test_the_choosing_page_has_the_values_of_the_presets() -> None:
    for preset, values in PRESETS.items():
        row = (
            f"| `{preset}` | {values['penalty_weight']:g} | {values['alignment_weight']:g} | "
            f"{values['alpha']:g} | {values['risk_reduction']} | "
            f"{['biased', 'unbiased'][values['variance_correction']]} |"
        )
        assert row in read("choosing.md")


def commands(name: str) -> list[list[str]]:
    return [words for _, words in launched(name)]


def launched(name: str) -> list[tuple[list[str], list[str]]]:
    """Find the uses of a command in the console blocks of the pages.

    Returns:
        for each use the words up to the name of the command or its script, and the words after it.
    """
    script = rf"\S*milk_recsys/{name}\.py|-m milk_recsys {name}|milk-recsys {name}"
    starts = rf"(?:(?:python|torchrun)\b.*? )?(?:{script})"
    uses = []
    for page in PAGES:
        text = re.sub(r" \\\n +", " ", read(page))  # joins commands over more than one line
        for before, after in re.findall(rf"^\$ ({starts})(?= |$)(.*)$", text, re.MULTILINE):
            uses.append((shlex.split(before), shlex.split(after, comments=True)))
    return uses


def test_the_command_lines_of_train_py_are_accepted() -> None:
    uses = commands("train")
    assert len(uses) >= 5
    for arguments in uses:
        # A file of --config is that of a run, which is not here.
        if "--help" not in arguments and "--config" not in arguments:
            command_line.parse_options(arguments)


def test_the_command_lines_of_torchrun_are_accepted() -> None:
    uses = [before for before, _ in launched("train") if before[0] == "torchrun"]
    assert len(uses) >= 5
    for words in uses:
        parsed = get_args_parser().parse_args(words[1:])
        assert "max-restarts" not in " ".join(words) or parsed.max_restarts > 0


def test_a_job_that_restarts_is_started_with_resume() -> None:
    for words, arguments in launched("train"):
        if "--max-restarts" in words:
            assert {"--resume", "--out"} <= set(arguments)


def test_the_scaling_page_names_the_packages_of_make_distributed() -> None:
    pinned = re.compile(r"\b[a-z-]+==[\d.]+")
    lines = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(
        r"^\$ pip install --no-deps (.*?)^```", read("scaling.md"), re.MULTILINE | re.DOTALL
    )
    target = lines[lines.index("FBGEMM :=") : lines.index("distributed: ")]
    assert set(pinned.findall(command)) == set(pinned.findall(target))


def test_the_command_lines_of_recommend_py_name_options_that_exist() -> None:
    known = {flag(field.name) for field in dataclasses.fields(RecommendOptions)}
    uses = commands("recommend")
    assert uses
    for arguments in uses:
        assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize(("name", "kind"), [("export", ExportOptions), ("serve", ServeOptions)])
def test_the_command_lines_of_export_and_serve_are_accepted(name: str, kind: type[Any]) -> None:
    uses = commands(name)
    assert uses
    for arguments in uses:
        tyro.cli(kind, args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    listed = set(re.findall(r"`(--[a-z-]+)[ `]", read("serve.md")))
    known = {
        flag(field.name) for k in (ExportOptions, ServeOptions) for field in dataclasses.fields(k)
    }
    assert listed <= known | {"--config", "--tracker"}


def test_the_command_lines_of_reproduce_py_and_prepare_py_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "_REGISTERED", {})
    methods.register(ROCCHIO)  # the pages' method of your own
    uses = commands("reproduce")
    assert len(uses) >= 3
    for words in uses:
        assert not reproduce.check(tyro.cli(reproduce.Reproduce, args=words))
    known = prepare.SOURCES
    prepared = [parse_source(w, known, prog="", description="") for w in commands("prepare")]
    assert {type(source) for source in prepared} == set(known.values())


def test_the_page_of_the_study_lists_every_option_and_name() -> None:
    page = read("reproduce.md")
    listed = set(re.findall(r"`(--[a-z-]+)`", page))
    fields = {flag(f.name) for f in dataclasses.fields(reproduce.Reproduce)} - {"--name"}
    assert fields <= listed
    assert {f"`{name}`" for name in (*NAMES, "all")} <= set(
        re.findall(r"^\| (`\w+`) \|", page, re.MULTILINE)
    )


def test_the_baselines_page_has_a_section_for_every_baseline_and_its_options_exist() -> None:
    page = read("baselines.md")
    rows = re.findall(r"^\| `(\w+)` \| (.+?)(?:,| \|)", page, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(BASELINES)
    for name, title in rows:
        assert re.search(
            rf"^## .*{'kNN and random' if name in ('content_knn', 'random') else title}",
            page,
            re.MULTILINE,
        )
    known = {flag(f.name) for kind in BASELINES.values() for f in dataclasses.fields(kind)}
    known |= {flag(name) for name in (*options.common_fields(), *find_method("milk").fields)}
    known |= {flag(field.name) for field in dataclasses.fields(reproduce.Reproduce)}
    assert set(re.findall(r"`(--[a-z0-9-]+)`", page)) <= known
