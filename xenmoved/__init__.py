"""The daemon `xenmoved` and its client `xenmovectl`."""

__version__ = "0.1.0"
