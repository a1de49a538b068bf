"""The block-sync engine: bringing volumes of two hosts to the same bytes.

source    the sending end of one volume, round by round
target    the receiving end of one volume
index     what the target is known to hold, kept at the source
segments  how a volume is cut into units of work
devices   threads and buffers for device I/O
limiter   the rate limit of a job
progress  counters that every view of a job is made from
"""
