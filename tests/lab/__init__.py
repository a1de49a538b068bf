"""Two real Xen hosts on this machine, in QEMU; see docs/lab.md."""
