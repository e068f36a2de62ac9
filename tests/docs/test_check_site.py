"""The check of the built pages finds each kind of fault."""

from pathlib import Path

import check_site
import equations
import pytest

RIGHT = '<p id="here"><a href="#here">a</a><a href="other.html#there">b</a><img src="a.png"></p>'


def site(folder: Path, body: str) -> Path:
    (folder / "index.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    (folder / "other.html").write_text('<p id="there">text</p>', encoding="utf-8")
    (folder / "a.png").write_bytes(b"")
    return folder


def math(html: str) -> str:
    return f'<span class="math notranslate">{html}</span>'


def test_a_right_site_has_no_problems(tmp_path, capsys):
    body = RIGHT + math(equations.render(r"\frac{a}{b}"))
    assert check_site.main([str(site(tmp_path, body))]) == 0
    assert capsys.readouterr().out == "2 pages: links, anchors and equations are right.\n"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="gone.html">a</a>', "links to gone.html, which does not exist"),
        ('<img src="gone.png">', "links to gone.png, which does not exist"),
        ('<a href="other.html#no">a</a>', "links to other.html#no, whose page has no such anchor"),
        ('<a href="#no">a</a>', "links to #no, whose page has no such anchor"),
        ('<script src="//cdn.example/a.js"></script>', "loads //cdn.example/a.js, which needs a"),
        ('<a href="mailto:NDCG%4010">NDCG@10</a>', "takes NDCG@10 for an address of mail"),
        (math("a / b"), "1 equations, of which 0 are rendered"),
        (
            math("<math xmlns='http://www.w3.org/1998/Math/MathML'><msqrt></msqrt></math>"),
            "an operand of <msqrt> is empty",
        ),
    ],
)
def test_a_fault_is_found(tmp_path, capsys, body, problem):
    assert check_site.main([str(site(tmp_path, RIGHT + body))]) == 1
    assert f"index.html: {problem}" in capsys.readouterr().out


def test_links_to_other_sites_are_not_followed(tmp_path):
    body = '<a href="https://example.org/a">a</a><link rel="next" href="other.html">'
    assert check_site.main([str(site(tmp_path, body))]) == 0


def test_a_folder_without_pages_is_an_error(tmp_path, capsys):
    assert check_site.main([str(tmp_path)]) == 2
    assert check_site.main([]) == 2
    assert "has no pages" in capsys.readouterr().err
