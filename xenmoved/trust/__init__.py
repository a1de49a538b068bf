"""Who another host is, and why that is believed: keys that are pinned, and certificates.

certificate  a host's certificate, in OpenSSH's format: read, checked, signed
refusals     why a certificate is not believed
authority    the folder of an authority: its key, what it has signed
fleetfile    the fleet file, as an authority keeps it
report       what is shown of an authority's certificates
own          the certificate of this host
roster       the peers of this host by name, and what each has proven
validity     what an operator must know of this host's own certificate

A certificate is a host certificate of OpenSSH (PROTOCOL.certkeys) with one principal `host:NAME`,
and others `group:NAME`. The name of a peer is that in its certificate, never what it
says of itself. A key that is pinned in the configuration goes before any certificate.
"""
