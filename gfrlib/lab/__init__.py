"""What makes experiments of runs: data sets, records, grids, analysis, run_or_load."""
