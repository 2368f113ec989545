import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
open("/dev/null").close()
print(seen[0])
