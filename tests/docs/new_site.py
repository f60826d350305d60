"""A site that is made by following a document, in a folder of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import wait_until

from .snippets import ROOT, Block


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


class NewSite:
    """Runs commands as a terminal does that has this environment active, and no other."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}

    def run(self, command: str) -> str:
        """What the command has said. Its exports last, as in a terminal."""
        script = f"{command}\nstatus=$?\nenv -0 > {self.folder}/.variables\nexit $status"
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        variables = (self.folder / ".variables").read_text().split("\0")
        self.environment = dict(entry.split("=", 1) for entry in variables if "=" in entry)
        return done.stdout + done.stderr

    def paste(self, block: Block, below: str = "") -> None:
        """Put the parts of a block into the files that they name, with this site's own port."""
        for name, how, text in block.files():
            file = self.folder / below / name
            with file.open("w" if how == "new" else "a") as opened:
                opened.write(text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}") + "\n")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Have the site's own server answer at its port."""
        command = ["python", "manage.py", "runserver", "--noreload", f"127.0.0.1:{self.port}"]
        with (self.folder / "server.log").open("w") as log:
            server = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        try:
            wait_until(lambda: is_listening(self.port) or server.poll() is not None)
            yield
        finally:
            server.terminate()
            server.wait(30)
