"""Fuzz targets: `fuzz_NAME.py` has `target(data)`, `corpus/NAME/` what it is tried with."""
