#!/usr/bin/env python3
"""Builds the sdist and, from it, the wheel: the same bytes wherever and whenever that is done.

``make build`` calls it. SOURCE_DATE_EPOCH is the time that the files in both bear, in seconds since
the epoch; without it that of the last commit. The sdist is packed again, because setuptools leaves
in it what differs from one checkout to another: times, owners, and the umask's modes.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
# Zip files know no time before 1980. For a tree that is in no repository.
EARLIEST = 315_532_800


def main() -> None:
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or last_commit() or EARLIEST)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    os.umask(0o022)
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        build("--sdist", ROOT, place)
        [packed] = place.glob("*.tar.gz")
        DIST.mkdir()
        pack(unpack(packed, place / "as-built"), DIST / packed.name, epoch)
        build("--wheel", unpack(DIST / packed.name, place / "as-packed"), DIST)
    for path in sorted(DIST.iterdir()):
        print(path.relative_to(ROOT))


def last_commit() -> str:
    """The time of the last commit; empty in a tree that is in no repository."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    if not (ROOT / ".git").exists():
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def build(kind: str, source: Path, place: Path) -> None:
    """Have ``build`` make one of the two, with the locked setuptools: it writes its version."""
    constraints = ROOT / "constraints" / "py{}{}.txt".format(*sys.version_info)
    if constraints.exists():
        os.environ["PIP_CONSTRAINT"] = str(constraints)
    command = [sys.executable, "-m", "build", "--quiet", kind, "--outdir", str(place), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


def unpack(archive: Path, place: Path) -> Path:
    """The folder that was in the archive."""
    with tarfile.open(archive) as opened:
        opened.extractall(place, filter="data")
    [folder] = place.iterdir()
    return folder


def pack(source: Path, target: Path, epoch: int) -> None:
    """Pack a folder, with nothing in it that depends on when, where and by whom."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = epoch
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    # ``filename``: else the archive's name has its folder in it.
    with (
        target.open("wb") as file,
        gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted([source, *source.rglob("*")]):
            name = path.relative_to(source.parent).as_posix()
            archive.add(path, name, recursive=False, filter=plain)


if __name__ == "__main__":
    main()
