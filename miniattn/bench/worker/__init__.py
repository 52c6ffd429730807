"""The child processes of the benchmark; run as a folder, see `__main__`."""
