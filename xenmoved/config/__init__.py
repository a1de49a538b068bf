"""Configuration of the daemon: its types, its file, and the files of single peers.

Import from the modules: `xenmoved.config.model` for the types, `xenmoved.config.loader` to read,
`xenmoved.config.peers` to write, `xenmoved.config.units` for sizes and durations as text.
"""
