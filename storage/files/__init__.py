"""Volumes in image files.

pool     pool of image files in one folder
volume   a volume on a file
images   disk images with a format of their own: qcow2 and VHD
headers  what the header of an image says, and which files it names
chains   what lies beneath an image
"""
