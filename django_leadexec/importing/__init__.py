"""Import many refresh tokens that the site already holds: from CSV, or from JSON lines.

Rows are read in batches, so memory does not grow with the file. A token that is on file already
costs no call, so an import that was stopped can be started again.
"""

from .importer import Importer, ImportOptions, Tally
from .questions import End
from .rows import FORMATS, BadInput, TokenFile

__all__ = ["FORMATS", "BadInput", "End", "ImportOptions", "Importer", "Tally", "TokenFile"]
