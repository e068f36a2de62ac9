"""The files for a public host: schemas of workflows and forms, and the facts that they repeat."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HOST = ROOT / ".github"
WORKFLOWS = sorted(HOST.glob("workflows/*.yml"))
FORMS = sorted(HOST.glob("ISSUE_TEMPLATE/*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(not HOST.is_dir(), reason="not in the source archive")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-issue-forms", [path for path in FORMS if path.stem != "config"]),
        ("vendor.github-issue-config", [path for path in FORMS if path.stem == "config"]),
        ("vendor.readthedocs", [ROOT / ".readthedocs.yaml"]),
    ],
    ids=["workflows", "issue forms", "issue config", "pages"],
)
def test_files_meet_their_schema(schema, files):
    pytest.importorskip("check_jsonschema")
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_reads_only_and_calls_targets_and_files_that_exist(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for line in re.findall(r"\bmake ([a-z -]+)$", text, re.MULTILINE):
        assert set(line.split()) <= targets
    for name in re.findall(r"\.ci/\w+(?:\.py)?", text):
        assert (ROOT / name).exists(), name
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90


def test_the_matrix_of_the_workflow_is_that_of_the_command():
    jobs = yaml.safe_load((HOST / "workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    cells = [f"{c['python']}:{c['torch']}" for c in jobs["matrix"]["strategy"]["matrix"]["include"]]
    (stated,) = re.findall(
        r"^CELLS = \((.*?)^\)$",
        (ROOT / ".ci/matrix.py").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert cells == re.findall(r'"(.*?)"', stated)
    (lowest,) = [r for r in PROJECT["dependencies"] if r.startswith("torch")]
    assert lowest == "torch>=" + ".".join(cells[0].split(":")[1].split(".")[:2])


def test_the_container_file_copies_what_the_build_needs():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    copied = {
        w for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for w in line.split()
    }
    assert {
        "pyproject.toml",
        "README.md",
        ".ci/hatch_readme.py",
        "LICENSE",
        "invmod",
        "examples",
    } <= copied
    assert all((ROOT / name).exists() for name in copied)
    (command,) = re.findall(r'^ENTRYPOINT \["([\w-]+)"', text, re.MULTILINE)
    assert command in PROJECT["scripts"]


def test_links_and_targets_of_the_guide_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z]+)", text.replace("make a", "")):
        assert f"\n{target}:" in makefile, target
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
