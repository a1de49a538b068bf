"""Volumes on block devices that the operator made and listed.

pool         pool of listed devices
volume       a volume on a block device, with O_DIRECT
whole_files  which loop devices are none of its volumes
"""
