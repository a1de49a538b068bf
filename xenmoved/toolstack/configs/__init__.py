"""Guests' configuration files.

folder        the folder where the host keeps them
guest_file    which of them is a guest's
boot_entries  what the host starts at boot
installing    what becomes of the file of a guest that comes, and of those that are here
keeping       renaming an operator's files so that none is lost
text          the text of a file, adapted
size_text     how large a domain it makes, and of which type
device_text   what it says of each device
compose       a file for a domain that has none
per_text      what was found in a text, remembered
noted         what was set aside for guests that leave, and whose place it keeps
opened        which files of this host a toolstack opens for a guest
"""
