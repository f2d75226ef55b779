"""The verbs: one command, one file, one Snakemake rule each."""
