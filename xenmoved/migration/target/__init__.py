"""The host that a guest or a volume comes to.

channels       where the channels that peers open are taken in
dialogue       answers the source
preflight      what stands in the way of taking an offer
memory_limits  whether a guest is small enough to come
hypervisor     whether its Xen and processors can run it
scripts        whether the scripts for its interfaces may be run, and are here
space          how much of pools and of its quota is left to a peer
at_boot        whether it can be started at boot beside all others
guests_left    whether it is one too many that the peer leaves here
boot_files     what it is started from that is no disk of its own
at_home        whether it, or another of its name or uuid, is here already
reuse          what may become of a volume that is here already
layouts        how the disk of a guest lies here: raw, or in an image
arrivals       all that is on its way to this host
expected       what is known of a guest that comes, across restarts
hooked         what the hooks of this host are told of a guest that comes
migration      a guest that comes, step by step
guest          what has come of it, and its record in the journal
memory         its memory as it comes
volumes        its volumes: made, opened, written, closed, and removed again
filling        one of them while a peer fills it
presence       whether a domain of a guest is on this host
handover       the target's half of the hand-over, also after a crash
"""
