"""The block-sync engine: bringing volumes of two hosts to the same bytes.

source         the sending end of one volume, round by round
target         the receiving end of one volume
index          what the target is known to hold, kept at the source
segments       how a volume is cut into units of work
examine        reads and fingerprints a volume, ahead of whoever uses it
devices        threads and buffers for device I/O
compression    of bulk frames, where it helps
limiter        the rate limit of a job
progress       counters that every view of a job is made from
stream_source  the sending end of a volume that goes as streams which its storage makes
stream_target  the receiving end of such a volume
snapshots      what both of these need
"""
