"""What `xenmovectl` does: one function for each verb, which returns the exit code.

table      the function of every verb
host       this host and its daemon
check      a plug-in for monitoring systems
transfers  what sends something, or tells what that would be
evacuate   every guest away, to the end of it
jobs       jobs: list, watch, set, cut over, abort
recover    what is in doubt, and decisions about it
hooks      what is run before, at and after moves
volumes    volumes and copies that are kept
peers      keys and entries of peers
authority  certificates: what an authority signs, and enrolling this host
"""
