"""Zvols.

pool     pool of the zvols under one dataset
volume   a volume on a zvol
history  its snapshots, and the streams between them
stream   what a stream says of itself in its first record
"""
