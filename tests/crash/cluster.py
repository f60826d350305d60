"""A PostgreSQL server of the test's own, which can be ended as rudely as one likes."""

import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

# Below the ports that the system hands out, so that nobody gets ours while the server is away.
PORTS = range(20_000, 30_000)


def find_binaries() -> Path | None:
    """The directory of ``initdb`` and ``pg_ctl``: on the path, or where Debian keeps them."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin/"), default=None)


class Cluster:
    def __enter__(self) -> "Cluster":
        self.port = _free_port()
        # Not in pytest's directory, which only its owner may enter.
        self._place = Path(tempfile.mkdtemp(prefix="leadexec-cluster-"))
        # PostgreSQL refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self._place, owner.pw_uid, owner.pw_gid)
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        try:
            self._call("initdb", "--auth=trust", "--username=postgres", "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self._place)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(subprocess.CalledProcessError):  # a test may have left it stopped
            self.stop()
        shutil.rmtree(self._place)

    def start(self) -> None:
        # A commit is on its way to the disk when it is answered; the machine itself doesn't crash.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        options += " -c unix_socket_directories="
        self._call("pg_ctl", "start", "--wait", f"--options={options}")

    def stop(self) -> None:
        """As a crash would: no client is told, nothing is finished."""
        self._call("pg_ctl", "stop", "--wait", "--mode=immediate")

    def restart(self) -> None:
        self._call("pg_ctl", "restart", "--wait", "--mode=immediate")

    def _call(self, program: str, *arguments: str) -> None:
        binaries = find_binaries()
        assert binaries
        with (self._place / "log").open("a") as log:
            # A file, not a pipe: the server keeps it open.
            subprocess.run(
                [binaries / program, "--pgdata", self._place / "data", *arguments],
                check=True,
                cwd=self._place,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._as,
                timeout=120,
            )


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")
