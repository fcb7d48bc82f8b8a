"""The CPU ops where `_cpu` was not built: the same names and argument orders, by numba or in plain torch.

`_native.py` picks one at the first use. Nothing here is imported before that.
"""
