import os
import signal
import time
print("interrupting")
os.kill(os.getpid(), signal.SIGINT)
time.sleep(5)
