"""What goes wrong with the lab itself, as opposed to the program that is tested in it."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do its work. The message says what to do."""


class HostError(LabError):
    """A command in a host failed, or the way into the host."""
