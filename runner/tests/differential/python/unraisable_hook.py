import sys


class Bad:
    def __del__(self):
        raise ValueError("in del")


sys.unraisablehook = lambda info: print("unraisable", info.exc_value)
del (lambda: Bad())
kept = Bad()
