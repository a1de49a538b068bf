"""Moving every guest away from this host.

report  what an evacuation looks like to the client
plan    which guest fits on which peer
run     carrying it out, a few guests at a time
"""
