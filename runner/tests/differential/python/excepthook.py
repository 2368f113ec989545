import sys


def hook(kind, value, trace):
    print("hooked", kind.__name__, value)
    del sys.last_type, sys.last_value, sys.last_traceback


sys.excepthook = hook
raise ValueError("x")
