import __main__
import sys
value = 5
print(__main__.value, __main__.__file__, __main__ is sys.modules["__main__"])
print(sorted(vars(__main__)))
print(__main__.__spec__, __main__.__loader__.__class__.__name__, __main__.__builtins__)
