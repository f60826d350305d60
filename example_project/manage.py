#!/usr/bin/env python
import os
import sys
from pathlib import Path


def main() -> None:
    # Run as a file, Python looks for modules in this folder; the packages are one above.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if entry != str(here))]
    # This file is for this project alone; what another project has exported doesn't count here.
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_project.settings"

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
