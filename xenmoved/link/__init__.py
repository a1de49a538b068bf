"""The SSH connection between two daemons and the channels on it.

identity    this host's key and fingerprints
channel     one byte stream on a connection, with back-pressure in both directions
framed      one reader of the frames of a channel
flow        back-pressure of a whole connection
bounds      what asyncssh may keep for the other side
lean        SSH packets with less work for each
options     settings that both ends share
client      the connection to a peer that this host sends guests to
server      the listener for peers that send guests here
probe       how much a link carries
round_trip  how long it takes to a peer and back
errors      what can go wrong

A daemon dials the peers to which it sends; one connection carries every channel of all that goes
from it to that peer. Both ends prove themselves with pinned ed25519 keys. The only things that can
be opened on a connection are the subsystems named in `channel.Purpose`.
"""
