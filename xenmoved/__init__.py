"""The daemon `xenmoved` and its client `xenmovectl`.

main         the command `xenmoved`
daemon       puts the parts together, runs them, and takes them down in order
handlers     answers to what operators ask
evacuation   moving every guest away
migration    moving one guest or volume: the source, the target
jobs         what the daemon is busy with
hooks        what operators have run before, at and after moves
sync         bringing volumes of two hosts to the same bytes
link         the SSH connection to a peer
trust        who another host is, and why that is believed
toolstack    everything that is done with Xen
journal      what the daemon must know after a crash
config       what an operator can configure
choices      what an operator can choose between
monitoring   what tells a monitoring system how this host is
control      the control socket: messages, server, client
ctl          the command `xenmovectl`
problems     how things that go wrong reach an operator
remarks      what stands in nobody's way, and an operator should know all the same
codes        codes of both by which this host decides what to do next
guestnames   names of guests that every host can take
namemap      names of volumes that are to be other names
units        sizes and durations as text
tasks        structured concurrency
files        small files that must survive a crash
logs         logging
notify       tells systemd how the daemon is
sandbox      emulated hosts, for machines with no Xen
"""

__version__ = "0.2.0"
