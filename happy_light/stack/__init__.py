"""The HTTP server, and the fence around private names of libraries: only modules of this package may use them.

Nothing of a library is changed: there are subclasses and objects of one server instead. tests/test_fence.py keeps
it so.
"""
