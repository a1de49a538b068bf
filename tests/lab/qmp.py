"""QEMU's monitor, one connection for each command."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


def execute(path: Path, command: str, **arguments: object) -> Any:
    """Carry out one command and return its answer. Raises OSError, also for what QEMU refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        with connection.makefile("rw", encoding="utf-8") as stream:

            def ask(name: str, given: dict[str, object]) -> Any:
                stream.write(json.dumps({"execute": name, "arguments": given}) + "\n")
                stream.flush()
                while line := stream.readline():
                    answer = json.loads(line)
                    if "error" in answer:
                        raise OSError(f"QEMU refuses {name}: {answer['error']['desc']}")
                    if "return" in answer:
                        return answer["return"]
                raise OSError(f"QEMU ended during {name}")

            stream.readline()  # its greeting
            ask("qmp_capabilities", {})
            return ask(command, arguments)
