"""The control socket between `xenmovectl` and the daemon of the same host.

api     the messages
server  the daemon's end
client  the other end, blocking and quick to import
"""
