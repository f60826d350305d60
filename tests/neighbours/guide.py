"""The code of docs/how-to/allauth.md. The site beside allauth is made of it."""

from tests.docs.snippets import DOCS, blocks_of

_BLOCKS = blocks_of(DOCS / "how-to/allauth.md")


def part(file: str) -> str:
    """What the guide puts into a file."""
    parts = [text for block in _BLOCKS for name, _, text in block.files() if name == file]
    assert parts, file
    return "\n".join(parts)


def template() -> str:
    [block] = [block for block in _BLOCKS if block.language == "html+django"]
    return block.code
