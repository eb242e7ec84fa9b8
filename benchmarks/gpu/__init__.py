"""The GPU quarter of an hour: bash grids/gpu.sh PART; grids/README.md has the parts."""
