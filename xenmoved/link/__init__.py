"""The SSH connection between two daemons and the channels on it.

identity    this host's key and fingerprints
vouching    certificates in the place of keys, at both ends
channel     one byte stream on a connection, with back-pressure in both directions
framed      one reader of the frames of a channel
flow        back-pressure of a whole connection
bounds      what asyncssh may keep for the other side
bulk        bulk data past asyncssh, with fewer copies
loans       buffers that are used again when nothing looks at them
trial       whether that and the installed asyncssh fit together
options     settings that both ends share
client      the connection to a peer that this host sends guests to
server      the listener for peers that send guests here
probe       how much a link carries
round_trip  how long it takes to a peer and back
errors      what can go wrong

A daemon dials the peers to which it sends; one connection carries every channel of all that goes
from it to that peer. Both ends prove themselves with ed25519 keys, which are pinned, or for which
certificates vouch. The only things that can
be opened on a connection are the subsystems named in `channel.Purpose`.
"""
