"""The pages: each is in the navigation, its links lead somewhere, its words are the house's."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import whatsable_receiver
from whatsable_receiver.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WRITTEN = [ROOT / "README.md", *PAGES]

WORDS = (
    "payload",
    "delivery",
    "event",
    "route",
    "job",
    "attempt",
    "outcome",
    "lane",
    "conversation",
    "turn",
    "quarantine",
    "replay",
    "capture",
    "emulator",
)

FENCE = re.compile(r"^(?P<fence>```+).*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python$.*?^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(?P<title>.+?)\s*$", re.MULTILINE)
# Spelled with brackets, so that this file does not name what it looks for.
UNWELCOME = {
    "a folder outside the project": re.compile(r"\.\.[/]shared\b"),
    "a path of one machine": re.compile(r"(?<![\w./~-])/(?:work|root|home)/"),
    "a package registry": re.compile(r"pyp[i]\.org|pythonhoste[d]"),
}


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The fragment of each heading of a page, as the site and the code hosts make them."""
    titles = [match["title"] for match in HEADING.finditer(prose(page))]
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[\s]+", "-", title) for title in plain}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere; links to other hosts are not followed."""
    lost = []
    for match in LINK.finditer(prose(page)):
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        readable = other.suffix == ".md" and other.exists()
        if not other.exists() or (fragment and readable and fragment not in anchors(other)):
            lost.append(target)
    return lost


def tracked() -> list[Path]:
    """Every file that is, or would be, part of the project: what git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:  # an unpacked archive: no git, so everything there is ours
        return [path for path in ROOT.rglob("*") if path.is_file()]
    names = listed.stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def unwelcome(text: str) -> list[str]:
    """What a text names that no file of the project may name."""
    return [what for what, pattern in UNWELCOME.items() if pattern.search(text)]


def promises() -> dict[int, set[str]]:
    """The numbered promises of the page, each with the names of the tests it points to."""
    text = (DOCS / "promises.md").read_text("utf-8")
    parts = re.split(r"^## (\d+)\. .*$", text, flags=re.MULTILINE)[1:]
    numbers, bodies = parts[::2], parts[1::2]
    return {
        int(number): set(re.findall(r"`(test_\w+)`", body))
        for number, body in zip(numbers, bodies, strict=True)
    }


def proofs() -> dict[str, set[int]]:
    """Every test of the suite, with the numbers of the promises that its docstring names."""
    found: dict[str, set[int]] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                said = ast.get_docstring(node) or ""
                if node.name.startswith("test_"):
                    found[node.name] = found.get(node.name, set()) | numbers_in(said)
    return found


def numbers_in(docstring: str) -> set[int]:
    """The promises that a docstring names: "Promise 2", "Promises 1 and 8", "Promises 2 to 5"."""
    numbers: set[int] = set()
    for phrase in re.findall(r"\b[Pp]romises? (\d+(?:(?:, | and | to )\d+)*)", docstring):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", phrase):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def test_every_page_is_in_the_navigation_once() -> None:
    """No page is hidden from the reader, and the navigation names none that is not there."""
    nav = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    named = [page for entry in nav for page in entry.values()]
    assert sorted(named) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    """A link to a page, a heading or a file of the project finds it."""
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """The link test can fail: a lost page and a lost heading are both named."""
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](lost.md) [b](#nowhere) [c](#here) [d](page.md#here)\n", "utf-8")
    assert broken(page) == ["lost.md", "#nowhere"]


def test_the_glossary_has_the_words_of_the_house_and_a_meaning_for_each() -> None:
    """One table, every word in it once, in the order in which they build on each other."""
    table = re.findall(r"^\| (\*\*.+?) \| (.+) \|$", prose(DOCS / "glossary.md"), re.MULTILINE)
    words = [word for cell, _ in table for word in re.findall(r"\*\*(\w+)\*\*", cell)]
    assert words == list(WORDS)
    assert all(len(meaning) > 10 for _, meaning in table)


def test_the_changelog_begins_with_what_is_not_released_yet_or_with_this_version() -> None:
    """Whoever upgrades finds the newest version on top."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    sections = re.findall(r"^## (\S+)", prose(DOCS / "changelog.md"), re.MULTILINE)
    assert sections
    assert sections[0] in {"Unreleased", project["version"]}


@pytest.mark.parametrize("number", sorted(promises()))
def test_every_promise_is_proved_by_the_tests_it_names(number: int) -> None:
    """A promise names at least one test, and each of them says that promise's number."""
    known = proofs()
    named = promises()[number]
    assert named, f"promise {number} names no test"
    assert {name for name in named if number not in known.get(name, set())} == set()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Promise 2: it is so.", {2}),
        ("Promises 1, 2 and 8: it is so.", {1, 2, 8}),
        ("Promises 2 to 5, and 3 more words.", {2, 3, 4, 5}),
        ("A compromise 9 times over, and promises of 4 kinds.", set()),
    ],
)
def test_the_numbers_of_promises_are_read_from_docstrings(said: str, meant: set[int]) -> None:
    """The test above can fail: it counts what is said, and nothing else."""
    assert numbers_in(said) == meant


def test_the_api_page_shows_what_is_exported_and_no_more() -> None:
    """Public means exported and documented: both lists are one."""
    shown = re.findall(r"^::: whatsable_receiver\.(\w+)", prose(DOCS / "api.md"), re.MULTILINE)
    exported = {name for name in whatsable_receiver.__all__ if not name.startswith("__")}
    assert sorted(shown) == sorted(exported)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    """A reader who copies a ``WHATSABLE_`` name from a page sets something."""
    text = PYTHON.sub("", page.read_text("utf-8"))  # those blocks run: they prove themselves
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b", text))
    assert named - {setting.upper() for setting in Settings.model_fields} == set()


def test_no_file_names_another_place() -> None:
    """The project stands alone: no path of a machine, no folder beside it, no registry."""
    wrong = {}
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # samples in other encodings are bytes, and name nothing
        if found := unwelcome(text):
            wrong[str(path.relative_to(ROOT))] = found
    assert wrong == {}


@pytest.mark.parametrize(
    "text", ["see .." + "/shared/x", "cd /" + "work/x", "`/" + "root/x`", "https://py" + "pi.org"]
)
def test_a_foreign_place_is_found(text: str) -> None:
    """The test above can fail: each kind of unwelcome name is seen."""
    assert len(unwelcome(text)) == 1


@pytest.mark.parametrize("text", ["/var/lib/receiver", "docs/homepage", "/framework/x", "~/work/x"])
def test_a_common_path_is_no_foreign_place(text: str) -> None:
    """The test above forbids no more than it says."""
    assert unwelcome(text) == []
