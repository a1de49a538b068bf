"""Logical volumes, plain and thin.

pool          pools of one volume group
report        what LVM says of it
thin          an open thin volume
thinmetadata  which chunks of it are mapped
devmapper     names in sysfs
"""
