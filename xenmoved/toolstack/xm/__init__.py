"""The toolstack `xm`, of Xen before 4.5.

driver       what the daemon asks of it
outgoing     a domain becomes a stream: `xm save`
saved_disks  what the disks of a domain were when it was saved
incoming     a stream becomes a domain: `xm restore`
savefile     the head of an image that `xm save` writes
domain       a domain as xend describes it
sexpr        S-expressions as xend reads and writes them
"""
