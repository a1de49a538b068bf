"""Moving guests and volumes between this host and its peers.

A source, a target, and one table of the hand-over between them (`protocol.handover`). `source` and
`target` have the same names for what answers each other, and never import one another.

host             the services of this host that everything here uses
hello            the greeting of either end
handover         the walk of a table of the hand-over, for both sides
source           what sends
target           what takes in
report           what an operator is shown of guests, volumes and doubts
uncopied_disks   disks that both hosts share, and CD-ROMs
image_names      what images and their content are called
geometry         whether a disk of a certain geometry can be a volume of another one
hooked           what hooks are told of the interfaces of a guest that is here
bridges          what the bridges of a guest are called here, and whether they are here
promises         what this host has promised to peers and they have not taken yet
pool_folders     which folders its pools are
whereabouts      where the volumes are of which something was noted
volume_notes     what the journal knows of volumes, and whether they still are those
removal          removes volumes that were noted, and forgets them when they are gone
renamed_volumes  volumes that are called otherwise than when it was noted whose data they hold
volume_needs     who needs which volumes of this host
across_boots     how a copy on a device stays known when its host is booted
memory_digest    the digest of a saved image, in a thread beside what sends or takes it
retained         copies of volumes that stay when their guest has gone
expiry           drops them when they are old enough
retrying         what must be done in the end, however often it fails
doubts           what is in doubt, and what an operator decides about it
doubt_texts      what an operator is told of that
spool_leftovers  what is left in the spool of migrations that are settled
qemu_leftovers   what this daemon, or an earlier one, left in the QEMUs of guests
restart          what an earlier daemon left
"""
