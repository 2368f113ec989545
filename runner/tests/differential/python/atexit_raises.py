import atexit


def bad():
    raise ValueError("in handler")


atexit.register(print, "after")
atexit.register(bad)
