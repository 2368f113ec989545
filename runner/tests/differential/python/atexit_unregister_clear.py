import atexit
atexit.register(print, "never")
atexit._clear()
print("done")
