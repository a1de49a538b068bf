"""What tells a monitoring system how this host is.

space     space of pools, and copies that are kept, looked at now and then
report    what was seen of these
looks     what metrics need and no moment can tell, looked at now and then
metrics   what Prometheus is told, and under which names
exporter  serves that by HTTP

The last two import `prometheus_client`. Nothing imports them unless metrics are configured.
"""
