"""What the daemon must know after a crash.

records     what is known of guests and volumes
database    where that is written, and asked for
volumes     the part of it about volumes
statements  parts of what it is asked with
file        its file, of this release or an earlier one
reserve     space that is kept for it
unsettled   what it is still needed for, for whoever is about to remove it
"""
