"""One conversation with its media -> ids, tiles and label spans; the same code everywhere.

NumPy and PIL; torch only for ``resample: fast`` and for tensors asked for by name.
"""
