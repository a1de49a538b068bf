"""Packages and archive, installed in fresh systems without a network (`make test-deb`, as root).

root          a fresh Debian, in namespaces of its own
conftest      what is installed there
test_deb      packages for Debian: installed, upgraded, removed, purged; what Debian's tools say
test_bundle   the archive: with OpenRC, and without any supervisor
"""
