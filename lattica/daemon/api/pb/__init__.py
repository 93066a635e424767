"""Generated from the `.proto` file here by `tools/protos.sh`."""
