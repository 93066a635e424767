"""The targets, one module for each floor; `tools.fuzz.table` names them all."""
