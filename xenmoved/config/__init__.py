"""Configuration of the daemon: its types, its file, and the files of single peers.

model      what can be configured, with the defaults
loader     reads the main file, the files of single peers and the fleet file beside it
fleet      the fleet file, and what it says of a host
yamlfile   YAML as plain data, with its lines
reader     objects from plain data, finding every problem
fields     kinds of values
addresses  where hosts are
keys       public keys of peers
pools      the section `pools`
peers      writes and removes the files of single peers
errors     where, what is wrong, and what would be right
"""
