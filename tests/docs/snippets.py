"""The blocks of code in the documents."""

import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

# A comment before a block that a test looks for, such as <!-- run -->, then the block.
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[\w-]+) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
# "# mysite/urls.py", or in a template "{# mysite/templates/home.html: new #}".
_FILE = re.compile(r"^(?:# |\{# )([\w./-]+\.(?:py|html))(?:: (add|new))?(?: #\})?$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    document: Path
    line: int
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"

    def files(self) -> list[tuple[str, str, str]]:
        """The parts that begin with the name of a file, if any: name, "add" or "new", text."""
        heads = list(_FILE.finditer(self.code))
        ends = [head.start() for head in heads[1:]] + [len(self.code)]
        return [
            (head[1], head[2] or "add", self.code[head.end() : end].strip("\n") + "\n")
            for head, end in zip(heads, ends, strict=False)
        ]


# Celery wants each task to have a name of its own, and takes it from its module.
_modules = (f"block_{number}" for number in itertools.count(1))


def run(block: Block, **names: Any) -> dict[str, Any]:
    """What a block of Python defines. ``names``: what it may use."""
    names["__name__"] = next(_modules)
    exec(compile(block.code, str(block), "exec"), names)  # noqa: S102 - that is the test
    return names


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@cache
def blocks_of(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    return [
        Block(
            document=document,
            line=text.count("\n", 0, found.start("indent")) + 1,
            language=found["language"].strip(),
            mark=found["mark"] or "",
            code=dedent(found["code"]),
        )
        for found in _BLOCK.finditer(text)
    ]


def all_blocks(*languages: str) -> list[Block]:
    return [
        block
        for document in DOCUMENTS
        for block in blocks_of(document)
        if block.language in languages
    ]
