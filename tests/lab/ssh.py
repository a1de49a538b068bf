"""ssh into a host: one connection for all commands, as a new one takes an emulated host seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.lab.errors import HostError

_TIMEOUT: Final = 60


class Ssh:
    """The way into one host. Connects when it is first used."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._log = folder / f"{name}.ssh.log"
        self.config = folder / f"{name}.ssh_config"
        # Each process has its own, so that none depends on the life of another.
        self._socket = folder / f"{name}.ssh-{os.getpid()}"
        self._master: subprocess.Popen[bytes] | None = None

    def configure(self, port: int, key: Path) -> None:
        """Say at which port of this machine the host is, and with which key it lets in."""
        options = {
            "HostName": "127.0.0.1",
            "Port": port,
            "User": "root",
            "IdentityFile": key,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "ConnectTimeout": _TIMEOUT,
        }
        lines = (f"    {key} {value}\n" for key, value in options.items())
        self.config.write_text(f"Host {self._name}\n{''.join(lines)}")

    def _command(self, *arguments: str) -> list[str]:
        return ["ssh", "-F", str(self.config), "-S", str(self._socket), *arguments]

    def _connect(self) -> None:
        if self._master is not None and self._master.poll() is None:
            return
        self.close()
        with self._log.open("wb") as log:
            self._master = subprocess.Popen(
                self._command("-M", "-N", self._name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _TIMEOUT + 5
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise HostError(f"no ssh to {self._name}: {self._log.read_text().strip()}")
            if time.monotonic() > deadline:
                self.close()
                raise HostError(f"no ssh to {self._name} within {_TIMEOUT} s")
            time.sleep(0.05)

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._master is None:
            return
        self._master.kill()
        self._master.wait()
        self._master = None
        self._socket.unlink(missing_ok=True)

    def run(
        self, command: str, *, stdin: str, timeout: float, terminal: bool
    ) -> subprocess.CompletedProcess[str]:
        """Run a command. Raises HostError when the connection breaks, TimeoutExpired."""
        self._connect()
        process = subprocess.Popen(
            self._command("-tt" if terminal else "-T", self._name, command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if process.returncode == 255:
            raise HostError(f"ssh to {self._name} broke during `{command}`: {err.strip()}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)
