"""How xl reads a domain's configuration, ported from Xen's sources as data to compare with.

`cfg`: the text (tools/libs/util/libxlu_cfg*). `disk`: a disk specification (libxlu_disk_l.l).
`guest`: what xl makes of both for the guest and for the host (tools/xl/xl_parse.c).
"""


class XlRefusesError(Exception):
    """Xl would not take it, and starts nothing."""


def words(text):
    """Split a list of words."""
    return tuple(text.split())
