"""Published data sets -> ``data/raw``: what to fetch, whether it fits, and whether it is right.

``huggingface_hub`` moves the bytes; this package plans, checks and reports.
"""
