"""Demo data: handwritten digits written in the layouts that the real data sets have on the hub."""
