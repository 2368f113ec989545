import atexit
import sys
atexit.register(print, "handler")
sys.exit(5)
