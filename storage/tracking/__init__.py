"""Which parts of a volume are written while it is copied.

choice           which tracker a volume gets, and why
rehash           the tracker for volumes whose writes nothing can see
tracefs_tracker  the tracker by the kernel's trace
target           which device sees a volume's writes
tracefs          private instances of the kernel's tracing
ringpages        what is in the pages of its ring buffer
writelog         which writes that means
"""
