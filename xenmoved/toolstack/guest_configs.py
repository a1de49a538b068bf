"""What the daemon may ask of guests' configuration files, and of what the host starts at boot."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from protocol.messages import Remark
from xenmoved.toolstack.configs.guest_file import GuestFile
from xenmoved.toolstack.interface import Arrival, Domain
from xenmoved.toolstack.sizes import StartedAtBoot


class GuestConfigs(Protocol):
    """Guests' configuration files on this host, and what it starts at boot."""

    async def describe(self, name: str) -> Domain | None:
        """Describe a domain as its configuration file has it, None without one.

        Its `uuid` is "" and its `memory` 0 when the file does not tell. Raises ToolstackError when
        the file cannot be read without executing it.
        """

    async def files(self, name: str, uuid: str = "") -> list[GuestFile]:
        """Find the configuration files that are the domain's or in its place, the best first.

        Those of another domain come last: see `GuestFile.is_of`. Files that were set aside when it
        moved away are not among them.
        """

    async def kept_for_another(self, name: str, uuid: str) -> Path | None:
        """Return where a domain's file would be, if that is kept for another guest that leaves."""

    async def unreadable(self, name: str) -> Path | None:
        """Return what is in the place of a domain's file or entry and cannot be read, if any."""

    async def read_all(self, *, moved: bool = False) -> dict[str, str]:
        """Texts of all configuration files of guests here, by path. Raises ToolstackError.

        Those that are disabled count only with `moved`, but for those of guests that are leaving.
        """

    async def describe_text(self, name: str, text: str) -> Domain:
        """Describe the domain that a text would start. Raises ToolstackError if it is a program."""

    async def check(self, text: str, arrival: Arrival) -> None:
        """Raise ToolstackError with all that keeps a text from being installed as it should.

        NotAnnounced when it is of another guest than the one that was announced.
        """

    async def foresee(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Return what `install` would remark. Changes nothing."""

    async def install(
        self, name: str, text: str, arrival: Arrival, autostart: bool
    ) -> tuple[Remark, ...]:
        """Have the domain's file here, with this host's disk paths and bridges.

        It takes the place of the one that was set aside when the domain left, and nothing of an
        operator's is lost. Returns what the operator should know: a text that cannot be adapted, or
        that would run or open something of this host, goes to NAME.cfg.received, and is not started
        at boot; where too many wait there, it is not kept.
        """

    async def received(self) -> frozenset[str]:
        """Return the names of domains of which a text that came waits for its operator."""

    async def autostart(self, name: str, uuid: str = "") -> str | None:
        """Name the entry of CONFIG_DIR/auto that starts the domain at boot, None without one."""

    async def called_alone(self, name: str, uuid: str) -> list[Path]:
        """Return the entries of auto that only their names make the domain's."""

    async def at_boot(self, name: str, uuid: str) -> StartedAtBoot:
        """Return what this host starts at boot besides a domain, guests that are leaving, too."""

    async def left_at_boot(self, name: str, uuid: str) -> int:
        """Return how many bytes a domain took that was started at boot until it left, else 0."""

    async def most_with(self, name: str, uuid: str, text: str) -> int | None:
        """Return the most bytes that a domain may take when a text of it is installed.

        That is what the text says, or a file here that may be used rather than one that was only
        composed. None where a file does not tell. Raises ToolstackError when the text does not.
        """

    async def hold_autostart(self, name: str, uuid: str) -> None:
        """Have the host not start the domain at boot until `release_autostart`. Idempotent.

        Also notes which file is the domain's while that can be seen. Durable when this returns.
        Raises ToolstackError. `retire` makes it final.
        """

    async def release_autostart(self, name: str) -> None:
        """Have the host start the domain at boot again if it did before. Idempotent."""

    async def retire(self, name: str, uuid: str) -> None:
        """Disable configuration and autostart of a domain that moved away. Idempotent.

        Its file in CONFIG_DIR becomes FILE.moved, its entries of auto go to NAME.auto.moved. What
        is another domain's of that name stays.
        """

    async def restore(self, name: str, uuid: str, arrival: Arrival | None = None) -> None:
        """Use a FILE.moved again when the domain is here and no file came with it. Idempotent.

        With `arrival`, of a domain that has come: only one that is its own, and names nothing that
        it does not have here. Raises ToolstackError where one does; it stays FILE.moved.
        """
