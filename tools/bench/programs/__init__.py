"""The programs that are measured, each run as a script in the environment of its implementation."""
