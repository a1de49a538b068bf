"""The toolstack `xl`, of Xen 4.2 and later.

driver    what the daemon asks of it
outgoing  a domain becomes a stream: `xl save`
live      the same while it runs: `xl migrate`
holder    keeps the pipes of an `xl migrate` over a restart of the daemon
incoming  a stream becomes a domain: `xl migrate-receive`
savefile  the image that `xl save` writes
"""
