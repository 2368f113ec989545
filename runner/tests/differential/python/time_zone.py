import time
print(time.tzname, time.timezone)
