"""Disks that the QEMU of a guest serves: their content, whatever the format of the image.

monitor     a few commands over QMP
nodes       which of a QEMU's nodes a disk is, and what is not copied so
ownership   whose something is that lasts longer than who asked for it
additions   what is added to a QEMU, and removed again: bitmaps, exports, its NBD server
nbd         connections to NBD servers, by libnbd
volume      volumes that are an export
reads       what was read while QEMU was about to stop
guest_disk  the volume that is a disk of a running guest
image       images that no guest has open: made, read and written
tracker     which parts of it the guest writes
"""
