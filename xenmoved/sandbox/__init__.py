"""An emulator of the `xl` and `xm` command lines and of their stream, for machines with no Xen.

One folder is one host; several hosts may live on one machine and share a witness folder. Guests
are real processes that write to their disks, remember every block that they wrote, re-read and
check them for ever, and notice when they run twice. Nothing here imports the rest of the program.
"""
