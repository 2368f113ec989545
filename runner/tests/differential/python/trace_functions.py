import sys
import threading
print(sys.gettrace(), sys.getprofile(), threading.active_count(), threading.current_thread().name, sys.excepthook)
print(threading.main_thread() is threading.current_thread().name, sys.displayhook, sys.breakpointhook)
