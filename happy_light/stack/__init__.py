"""The fence: only modules of this package use private names of Hypercorn and aiosqlite.

Nothing of a library is changed: there are subclasses and objects of one server instead. tests/test_fence.py and
tests/test_stack_names.py keep it so.
"""
