import threading
import time
thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
thread.start()
print("main ends")
