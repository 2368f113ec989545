root = None
for n in range(100000):
    root = [root]
print("built")
