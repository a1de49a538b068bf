"""The control socket between `xenmovectl` and the daemon of the same host.

message_set     the messages, by name
api             the messages about guests, jobs and doubts
volume_api      those about volumes
hook_api        those about hooks
evacuation_api  those about moving all guests away
health_api      those about how this host is
peer_api        those about this host's identity and its peers
server          the daemon's end
client          the other end, blocking and quick to import
"""
