import atexit
atexit.register(print, "handler")
raise KeyError("gone")
