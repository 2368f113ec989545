import inspect
import sys
print([(frame.filename, frame.lineno, frame.function) for frame in inspect.stack()])
frame = sys._getframe()
print(frame.f_back, frame.f_code.co_name, inspect.getsource(sys.modules["__main__"])[:20])
