"""Builds what is installed on hosts. No host needs a network, pip or a compiler for it.

wheels  the packages that requirements.lock names, for one version of Python
tree    an installation in a folder: the environment, and what belongs to the system
deb     `make deb`: packages for releases of Debian
bundle  `make bundle`: one archive for other distributions
"""
