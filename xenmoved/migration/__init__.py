"""Moving guests and volumes between this host and its peers.

host       the services of this host that everything here uses
dialogue   the source's end of a control channel
offers     what this host would send, and why it cannot
preflight  what a migration would be, looked at on both hosts
checks     what stands in the way of taking an offer
rounds     how many pre-copy rounds, and when to stop
disks      the volumes of an outgoing job on their channels
outbound   a guest that leaves
handover   the walk of a table of the hand-over, for both sides
ownership  the source's half of the hand-over, also after a crash
syncing    a volume that is sent without a guest
inbound    a guest that comes: incoming_guest is what has come of it, with incoming_memory
target_handover  the target's half of the hand-over, also after a crash
arrivals   all that comes to this host, and the channels of peers
recovery   what an earlier daemon left
"""
