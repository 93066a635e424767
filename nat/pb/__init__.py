"""Protocol buffers of the protocols that this floor speaks; `tools/protos.sh` makes the modules."""
