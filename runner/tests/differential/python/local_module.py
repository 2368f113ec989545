import pathlib
import sys
pathlib.Path("/sandbox/helper.py").write_text("print('in', __name__, __file__)\nvalue = 3\n")
import helper
print(helper.value, sys.path[0])
