"""The host that a guest or a volume leaves.

start       begins migrations
preflight   what a migration would be, looked at on both hosts
offer       what this host would send, and why it cannot
finding     the guest that is to leave: how it is here, and what starts it
anew        a guest that is to be started anew: what its configuration makes of it
guest_text  what a guest is started from, and what becomes of its files and entries here
volume_offers  how one volume of it is offered
content     disks whose content is sent, and not the image in which it lies
obstacles   why a guest or a disk cannot move, whatever the target
hooked      what the hooks of this host are told of a guest that leaves
renames     what is to be called otherwise on the other host
inventory   what a guest has at one moment, and how that differs from another moment
guests      the guests of this host, with why some cannot move
warnings    what an operator is told beforehand, though it stands in nobody's way
estimate    how long it will take
dialogue    asks the target
channels    opens the channels for volumes and memory
migration   a guest that leaves
by_file     the hand-over of a guest of which no memory goes
sync        a volume that is sent without a guest
transfer    what both have in common
volumes     the volumes on their channels
ways        the two ways to send one: block by block, and as streams
rounds      how many pre-copy rounds, and when to stop
precopy     bringing the disks at the target so close that the guest can be suspended
stalls      what is done about a transfer that stands still
standstill  for how long a guest may stand still before the commit
handover    the source's half of the hand-over, also after a crash
remarks     what the target has to remark on a guest that has moved
"""
