"""What the daemon must know after a crash.

records   what is known of guests and volumes
database  where that is written, and asked for
file      its file, of this release or an earlier one
reserve   space that is kept for it
"""
