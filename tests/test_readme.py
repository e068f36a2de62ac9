"""The code of the README runs, and its links and make targets exist."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_block_trains_the_parts_on_missing_modalities():
    first, code, report, recommender = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(first, "README.md", "exec"), names := {})
    assert names["model"].predict({"text": names["x"][:4, :2], "image": None}).shape == (4,)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    for module in (names["encoders"], names["head"]):
        for parameter in module.parameters():
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0

    (expression,) = re.findall(r"`head\((invmod\.fuse\(.*?)\)`\.", README)
    fused = eval(expression, names)
    assert fused.shape == (64, 32)
    assert names["head"](fused).shape == (64, 3)
    torch.testing.assert_close(fused[:20], names["z"][:20, 0])
    exec(compile(report, "README.md", "exec"), {})
    names = {}
    exec(compile(recommender, "README.md", "exec"), names)
    assert names["rec"].recommend(names["new_items"], k=1)["rank"].to_list() == [1, 1, 1]


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_every_make_target_of_the_readme_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert set(re.findall(r"[`$] ?make ([a-z-]+)", README)) <= targets


def hook():
    """Load the hook of the build that writes the README of the package."""
    spec = importlib.util.spec_from_file_location("hatch_readme", ROOT / ".ci/hatch_readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("version", "tag"), [("0.2.0", "v0.2.0"), ("0.3.0.dev0", "main")])
def test_links_of_a_package_index_are_absolute(version, tag):
    for_index = hook().for_index
    text = (
        "[page](docs/a.md#b) ![picture](docs/p.png) [site](https://x.org/y) [here](#limits)\n"
        "```python\nx[0](1)\n```\n[end](LICENSE)\n"
    )
    host = "https://host.org/invmod"
    assert for_index(text, host + "/", version) == (
        f"[page]({host}/blob/{tag}/docs/a.md#b) ![picture]({host}/raw/{tag}/docs/p.png) "
        "[site](https://x.org/y) [here](#limits)\n"
        f"```python\nx[0](1)\n```\n[end]({host}/blob/{tag}/LICENSE)\n"
    )
    assert for_index(text, None, version) == (
        "page  [site](https://x.org/y) [here](#limits)\n```python\nx[0](1)\n```\nend\n"
    )


def test_no_relative_link_of_the_readme_reaches_a_package_index():
    for address in (None, "https://host.org/invmod"):
        text = hook().for_index(README, address, "0.2.0")
        targets = re.findall(r"\]\(([^)]+)\)", text)
        assert [target for target in targets if not target.startswith(("https:", "#"))] == []
        assert ("blob/v0.2.0" in text) == bool(address)
