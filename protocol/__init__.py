"""The wire protocol of xenmoved, without input or output.

    errors        the tree of errors
    schema        typed, validated objects from plain data
    jsonschema    JSON Schemas of declared types
    frames        frames in a byte stream
    codec         messages in frames
    messages      what two daemons say to each other, a module for each subject
    conversation  which message may come when on a control channel
    fingerprints  what a block is compared by
    blocksync     the exchange on a volume channel, both ends
    streams       a volume that goes as streams which its storage makes
    handover      who owns the guest: the transition tables of both roles

No module here opens a socket or file, starts a thread or reads a clock: callers feed bytes in, take
bytes out and own every effect. docs/protocol.md is the specification.
"""
