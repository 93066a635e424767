"""Generated from the `.proto` files here by `tools/protos.sh`."""
