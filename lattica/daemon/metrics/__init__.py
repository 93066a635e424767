"""What a daemon shows to those who watch it: metrics for Prometheus, and whether it is well."""
