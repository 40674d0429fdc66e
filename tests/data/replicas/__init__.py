"""Miniatures of the published data sets: good rows, and the defects that were met in each."""
